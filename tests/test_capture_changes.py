"""What users change between the calls of a compiled function, and how they write functions."""

import copy
import dataclasses
import functools
import itertools
import operator
import threading
import typing
import weakref

import numpy as np
import pytest
from test_capture_programs import batch, check, perceptron, trainer

import microtorch as torch
from microtorch import nn

F = nn.functional
CASES, REFUSED = {}, {}


def case(refused=None):
    def enter(make):
        CASES[make.__name__] = make
        REFUSED[make.__name__] = refused
        return make

    return enter


def changing(change, make=perceptron, optimizer=None):
    """A case: the usual training, with something changed before the third call."""

    def run(compiled):
        model = make()
        made = (optimizer or (lambda p: torch.optim.SGD(p, lr=0.1)))(model.parameters())
        step = compiled(trainer(model, made))

        def call(k):
            if k == 3:
                change(model, made)
            return step(*batch(k))

        call.kept = model, made
        return call

    return run


# --------------------------------------------------------------------------- modules and optimizers
def module_of_sequential(model, optimizer):
    model[1] = nn.ReLU()


def module_appended(model, optimizer):
    model.append(nn.Softplus())


def module_deleted(model, optimizer):
    del model[1]


def layer_replaced(model, optimizer):
    torch.manual_seed(7)
    model[2] = nn.Linear(5, 3)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.5})


def buffer_registered(model, optimizer):
    model.register_buffer("extra", torch.ones(2))


def loaded(model, optimizer):
    model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()})


def loaded_by_assignment(model, optimizer):
    state = {k: v * 2 for k, v in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    optimizer.param_groups[0]["params"] = list(model.parameters())


def loaded_without_the_optimizer(model, optimizer):
    model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()}, assign=True)


def group_added(model, optimizer):
    optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)]})


def groups_reassigned(model, optimizer):
    first = optimizer.param_groups[0]
    optimizer.param_groups = [{**first, "lr": 0.01}]


def group_cut(model, optimizer):
    del optimizer.param_groups[0]["params"][0]


def flipped(model, optimizer):
    model[0].weight.requires_grad_(False)


def flipped_with_gradient(model, optimizer):
    for p in model[0].parameters():
        p.requires_grad = False
        p.grad = None


def optimizer_loaded(model, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def optimizer_state_cleared(model, optimizer):
    optimizer.state.clear()


def parameter_registered(model, optimizer):
    model[0].register_parameter("bias", None)


def parameter_tied(model, optimizer):
    model[0].weight = nn.Parameter(torch.ones(5, 4))


def forward_of_the_instance(model, optimizer):
    model[1].forward = lambda x: x * 2


def applied(model, optimizer):
    model.apply(lambda m: m.weight.data.fill_(0.1) if hasattr(m, "weight") else None)


def weights_normed(model, optimizer):
    with torch.no_grad():
        for p in model.parameters():
            p.div_(p.norm())


def momentum_switched_on(model, optimizer):
    optimizer.param_groups[0]["momentum"] = 0.9


def maximized(model, optimizer):
    optimizer.param_groups[0]["maximize"] = True


def swapped_data(model, optimizer):
    a, b = model[0].bias, model[2].bias
    a.data, b.data = a.data.clone() + 1, b.data.clone() + 1


def class_changed(model, optimizer):
    model[1].__class__ = nn.Sigmoid


CHANGES = [
    module_of_sequential, module_appended, module_deleted, layer_replaced, buffer_registered, loaded,
    loaded_by_assignment, loaded_without_the_optimizer, group_added, groups_reassigned, group_cut,
    flipped, flipped_with_gradient, optimizer_loaded, optimizer_state_cleared, parameter_registered,
    parameter_tied, forward_of_the_instance, applied, weights_normed, momentum_switched_on,
    maximized, swapped_data, class_changed,
]  # fmt: skip
KINDS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_what_changes_in_models_and_optimizers(change, kind):
    check(changing(change, optimizer=KINDS[kind]))


@case()
def modules_in_a_module_dict(compiled):
    layers = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)})
    f = compiled(lambda x: sum(layer(x) for layer in layers.values()))

    def call(k):
        if k == 2:
            layers["a"] = nn.Linear(4, 3)
        if k == 4:
            del layers["b"]
        return f(batch(k)[0])

    return call


@case()
def modules_swapped_in_a_module_dict(compiled):
    layers = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Linear(4, 3), "c": nn.Linear(4, 3)})
    f = compiled(lambda x: layers["a"](x) - layers["b"](x) if "b" in layers else layers["a"](x))

    def call(k):
        if k == 2:
            layers["a"], layers["b"] = layers["b"], layers["a"]
        if k == 4:
            last = layers.pop("c")
            del layers["b"]
            layers["d"] = last
        return f(batch(k)[0])

    return call


@case()
def counted_calls(compiled):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls, self.sizes = nn.Linear(4, 3), 0, {"all": [1, 2]}

        def forward(self, x):
            return self.layer(x) * self.sizes["all"][0]

    model = Counting()
    f = compiled(lambda x: model(x))

    def call(k):
        model.calls += 1
        if k == 3:
            model.sizes["all"][0] = 5
        if k > 3 and hasattr(f, "programs"):
            assert f.latest.guards.modules and sum(map(len, f.programs.values())) <= 3
        return f(batch(k)[0])

    return call


@case()
def modules_in_a_module_list(compiled):
    layers = nn.ModuleList([nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)])

    def forward(x):
        for layer in layers:
            x = layer(x)
        return x

    f = compiled(forward)

    def call(k):
        if k == 2:
            layers[1] = nn.ReLU()
        if k == 4:
            layers.insert(0, nn.Linear(4, 4))
        return f(batch(k)[0])

    return call


@case()
def zeroed_or_dropped(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    setting = {"set_to_none": True}

    @compiled
    def step(x, y):
        optimizer.zero_grad(**setting)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def call(k):
        setting["set_to_none"] = k % 3 == 0
        return step(*batch(k)), [p.grad.clone() for p in model.parameters()]

    return call


@case()
def cast_models(compiled):
    model = nn.Linear(4, 3)
    f = compiled(model)

    def call(k):
        dtype = (torch.float64, torch.float32)[k // 2 % 2]
        model.to(dtype)
        return f(batch(k)[0].to(dtype)).detach()

    return call


@case()
def copies_of_models(compiled):
    model = compiled(perceptron()) if compiled is torch.compile else perceptron()
    models = [model]

    def call(k):
        if k in (2, 4):
            models.append(copy.deepcopy(models[-1]))
            with torch.no_grad():
                for p in models[-1].parameters():
                    p.mul_(2)
        return [m(batch(k)[0]).detach() for m in models]

    return call


@case()
def models_in_a_dict_of_functions(compiled):
    heads = {"a": nn.Linear(4, 1), "b": nn.Linear(4, 2)}
    f = compiled(lambda x, name: heads[name](x))

    def call(k):
        if k == 3:
            heads["a"] = nn.Linear(4, 1)
        return f(batch(k)[0], "ab"[k % 2]).detach()

    return call


# ------------------------------------------------------------------------------- Python's own
@case()
def decorated_functions(compiled):
    scale = [1.0]

    def scaled(f):
        @functools.wraps(f)
        def wrapper(*args, **kwargs):
            return f(*args, **kwargs) * scale[0]

        return wrapper

    @compiled
    @scaled
    @scaled
    def f(x):
        return x + 1

    def call(k):
        scale[0] = float(k // 2)
        return f(batch(k)[0])

    return call


@case()
def partials_in_a_list(compiled):
    steps = [functools.partial(torch.add, other=1.0), functools.partial(operator.mul, 2.0)]

    def run(x):
        return functools.reduce(lambda value, step: step(value), steps, x)

    f = compiled(run)

    def call(k):
        if k == 2:
            steps[0] = functools.partial(torch.add, other=3.0)
        if k == 4:
            steps.append(torch.sin)
        return f(batch(k)[0])

    return call


class Lazy:
    """Attributes by __getattr__, from a dict."""

    def __init__(self):
        self.values = {"scale": 2.0}

    def __getattr__(self, name):
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def doubled(self):
        return self.scale * 2

    @functools.cached_property
    def kept(self):
        return self.scale * 3


@case()
def attributes_made_up(compiled):
    lazy = Lazy()
    f = compiled(lambda x: x * lazy.scale + lazy.doubled)

    def call(k):
        if k == 2:
            lazy.values["scale"] = 5.0
        if k == 4:
            lazy.scale = 7.0
        return f(batch(k)[0])

    return call


@case()
def cached_properties(compiled):
    lazies = [Lazy() for _ in range(6)]
    f = compiled(lambda x, lazy: x * lazy.kept)
    return lambda k: f(batch(k)[0], lazies[k])


class Settings:
    scale = 1.0
    table: typing.ClassVar[dict] = {"a": 1.0}

    @classmethod
    def factor(cls):
        return cls.scale * cls.table["a"]

    @staticmethod
    def shifted(x, by=[0.0]):  # noqa: B006
        return x + by[0]


@case()
def class_attributes(compiled):
    class Own(Settings):
        table: typing.ClassVar[dict] = dict(Settings.table)

    f = compiled(lambda x: Own.shifted(x) * Own.factor())
    defaults = Settings.shifted.__defaults__[0]
    defaults[0] = 0.0

    def call(k):
        if k == 1:
            Own.scale = 4.0
        if k == 2:
            Own.table["a"] = 5.0
        if k == 4:
            defaults[0] = 3.0
        if k == 5:
            Own.factor = classmethod(lambda cls: 2.0)
        return f(batch(k)[0])

    return call


@case()
def closures_in_comprehensions(compiled):
    rates = [0.1, 0.2, 0.3]

    def f(x):
        functions = [lambda v, r=r: v * r for r in rates]
        if (n := len(rates)) > 3:
            x = x + n
        return [g(x) for g in functions], {i: (lambda: x + i)() for i in range(n)}

    f = compiled(f)

    def call(k):
        if k == 2:
            rates[1] = 5.0
        if k == 4:
            rates.append(6.0)
        return f(batch(k)[0])

    return call


scale_of_the_module = 1.0


def scaled_by_the_module(x):
    return x * scale_of_the_module


@case()
def globals_through_a_helper(compiled):
    global scale_of_the_module
    scale_of_the_module = 1.0
    f = compiled(lambda x: scaled_by_the_module(x) + 1)

    def call(k):
        global scale_of_the_module, scaled_by_the_module
        if k == 2:
            scale_of_the_module = 4.0
        return f(batch(k)[0])

    return call


@case()
def globals_rebound_inside(compiled):
    global scale_of_the_module
    scale_of_the_module = 1.0

    def f(x):
        global scale_of_the_module
        scale_of_the_module = scale_of_the_module * 2
        return x * scale_of_the_module

    f = compiled(f)
    return lambda k: f(batch(k)[0])


@case()
def globals_rebound_to_the_same(compiled):
    def f(x):
        global scale_of_the_module
        before, scale_of_the_module = scale_of_the_module, 3.0
        x = x * scale_of_the_module
        scale_of_the_module = before
        return x

    f = compiled(f)
    return lambda k: f(batch(k)[0])


@case()
def weak_references(compiled):
    class Holder:
        pass

    holders = [Holder() for _ in range(2)]
    for k, holder in enumerate(holders):
        holder.weight = torch.ones(4) * (k + 1)
    reference = [weakref.ref(holders[0])]
    f = compiled(lambda x: x * reference[0]().weight)

    def call(k):
        if k == 2:
            reference[0] = weakref.ref(holders[1])
        if k == 4:
            holders[1].weight = torch.ones(4) * 7
        return f(batch(k)[0])

    return call


@dataclasses.dataclass(frozen=True)
class Config:
    scale: float
    name: str = "a"


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    y: torch.Tensor | None = None


@case()
def frozen_dataclasses(compiled):
    config = [Config(1.0)]
    f = compiled(lambda x: x * config[0].scale + len(config[0].name))

    def call(k):
        if k in (2, 4):
            config[0] = dataclasses.replace(config[0], scale=float(k), name="a" * k)
        return f(batch(k)[0])

    return call


@case()
def dataclasses_of_tensors(compiled):
    f = compiled(lambda b: b.x * 2 if b.y is None else b.x.sum(1) * b.y)
    return lambda k: f(Batch(*batch(k)[: 1 + k // 3]))


@case()
def generators_made_inside(compiled):
    sizes = [1, 2]

    def parts(x):
        for n in sizes:
            yield x[:, :n] * n
        yield from (x[:, n:] for n in sizes)

    f = compiled(lambda x: torch.cat(list(parts(x)), 1))

    def call(k):
        if k == 3:
            sizes[0] = 3
        return f(batch(k)[0])

    return call


@case()
def itertools_inside(compiled):
    names = ["a", "b"]
    f = compiled(
        lambda x: sum(
            (x * k * len(n) for k, n in zip(itertools.count(1), names)), start=torch.zeros(())
        )
    )

    def call(k):
        if k == 3:
            names[:] = ["aaa"]
        return f(batch(k)[0])

    return call


class Clip(torch.autograd.Function):
    limit = 0.5

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(-Clip.limit, Clip.limit)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x.abs() < Clip.limit) * 2


@case()
def custom_functions(compiled):
    w = torch.full((4,), 0.3, requires_grad=True)

    @compiled
    def step(x):
        w.grad = None
        loss = Clip.apply(w * x).sum()
        loss.backward()
        return loss.detach()

    def call(k):
        Clip.limit = (0.5, 0.1)[k // 3]
        return step(batch(k)[0]), w.grad.clone()

    return call


class Positive(nn.Module):
    scale = 1.0

    def forward(self, x):
        return x.exp() * self.scale


@case()
def parametrized_modules(compiled):
    layer = nn.Linear(4, 3)
    f = compiled(lambda x: layer(x))

    def call(k):
        if k == 2:
            layer.weight = nn.Parameter(layer.weight.detach() * 2)
        if k == 4:
            layer.forward = functools.partial(
                lambda layer, x: F.linear(x, layer.weight.exp()), layer
            )
        return f(batch(k)[0]).detach()

    return call


@case()
def contexts_of_gradients(compiled):
    w = torch.ones(4, requires_grad=True)

    @compiled
    def f(x):
        with torch.no_grad():
            a = w * x
        with torch.inference_mode():
            b = (w * x).sum()
        c = w * x
        return a, float(b.requires_grad), c

    def call(k):
        with torch.set_grad_enabled(k % 2 == 0):
            a, flag, c = f(batch(k)[0])
        return a, flag, a.requires_grad, c.requires_grad, c.detach()

    return call


@case()
def threads_of_the_caller(compiled):
    w = torch.ones(4)
    f = compiled(lambda x: x * w)

    def call(k):
        found = [None] * 3

        def work(n):
            found[n] = f(batch(n + k)[0])

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        w.add_(1)
        return found

    return call


@case()
def hooks_of_results(compiled):
    w = torch.ones(4, requires_grad=True)
    f = compiled(lambda x: (w * x).tanh())
    seen = []

    def call(k):
        w.grad = None
        y = f(batch(k)[0])
        y.register_hook(lambda g: seen.append(g.sum()) or g * 2)
        y.sum().backward()
        return y.detach(), w.grad.clone(), seen[-1]

    return call


@case()
def defaults_replaced(compiled):
    def f(x, scale=1.0, *, shift=0.0):
        return x * scale + shift

    g = compiled(f)

    def call(k):
        if k == 2:
            f.__defaults__ = (3.0,)
        if k == 3:
            f.__kwdefaults__["shift"] = 5.0
        if k == 5:
            f.__code__ = (lambda x, scale=1.0, *, shift=0.0: x - scale - shift).__code__
        return g(batch(k)[0])

    return call


@case()
def callables(compiled):
    class Scale:
        def __init__(self, by):
            self.by = by

        def __call__(self, x):
            return x * self.by

    scale = Scale(2.0)
    f = compiled(scale)

    def call(k):
        if k == 2:
            scale.by = 3.0
        if k == 4:
            Scale.__call__ = lambda self, x: x + self.by
        return f(batch(k)[0])

    return call


@case()
def operators_of_own_classes(compiled):
    class Shift:
        def __init__(self, by):
            self.by = by

        def __radd__(self, other):
            return other + self.by

        def __rmatmul__(self, other):
            return other * self.by

    shift = Shift(1.0)
    f = compiled(lambda x: (x.sum() + shift) if hasattr(shift, "by") else x)

    def call(k):
        if k == 2:
            shift.by = 4.0
        if k == 4:
            Shift.__radd__ = lambda self, other: other - self.by
        return f(batch(k)[0])

    return call


@case()
def modules_that_count_batches(compiled):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None))
    f = compiled(model)

    def call(k):
        if k == 3:
            model[1].reset_running_stats()
        if k == 4:
            model.eval()
        return f(batch(k)[0]).detach()

    call.kept = model
    return call


@case()
def matched(compiled):
    kinds = ["relu"]

    def f(x):
        match kinds[0], x.shape:
            case "relu", (_, 4):
                return x.relu()
            case str(name), _:
                return getattr(x, name)()

    f = compiled(f)

    def call(k):
        kinds[0] = ("relu", "sin", "cos")[k // 2]
        return f(batch(k)[0])

    return call


# ---------------------------------------------------------------- what tensors and modules say
@case()
def what_tensors_say_of_themselves(compiled):
    def f(x):
        if x.requires_grad and x.is_leaf:
            return x * 2
        if x.grad_fn is not None:
            return x * 3
        return x * 4 if x.is_contiguous() else x * 5

    f = compiled(f)
    x = torch.ones(4, 4)

    def call(k):
        given = (x, x.clone().requires_grad_(), x.clone().requires_grad_() * 1, x.T, x[:, ::2], x)[
            k
        ]
        return f(given).detach()

    return call


@case()
def arguments_that_begin_to_require_grad(compiled):
    w, x = torch.ones(4), torch.arange(4.0)
    f = compiled(lambda x: (w * x).sum())

    def call(k):
        if k == 2:
            x.requires_grad_()
        if k == 4:
            w.requires_grad_()
        y = f(x)
        return y.detach(), y.requires_grad

    return call


@case()
def modes_that_are_asked_for(compiled):
    w = torch.ones(4, requires_grad=True)
    f = compiled(lambda x: x * w if torch.is_grad_enabled() else x * 7)

    def call(k):
        with torch.set_grad_enabled(k % 2 == 1):
            return f(batch(k)[0]).detach()

    return call


@case()
def dtypes_that_are_asked_for(compiled):
    f = compiled(lambda x: x.to(torch.get_default_dtype()) * torch.ones(4))

    def call(k):
        before = torch.get_default_dtype()
        torch.set_default_dtype((torch.float32, torch.float64)[k // 3])
        try:
            return f(batch(k)[0])
        finally:
            torch.set_default_dtype(before)

    return call


@case()
def parts_in_evaluation_mode(compiled):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout(0.5)), nn.Linear(4, 3))
    f = compiled(model)

    def call(k):
        model[1].train(k % 3 == 0)
        return f(batch(k)[0]).detach()

    return call


@case()
def rates_of_dropout(compiled):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    f = compiled(model)

    def call(k):
        model[1].p = k / 10
        return f(batch(k)[0]).detach()

    return call


@case()
def memory_shared_with_numpy(compiled):
    array = np.ones(4)
    w = torch.from_numpy(array)
    f = compiled(lambda x: x * w)

    def call(k):
        array[k % 4] = k
        return f(batch(k)[0])

    return call


@case()
def parameters_of_parameters(compiled):
    model = perceptron()
    f = compiled(lambda x: sum(p.norm() for n, p in model.named_parameters() if "weight" in n) * x)

    def call(k):
        if k == 2:
            model.append(nn.Linear(3, 2))
        if k == 4:
            model[0].weight = None
        return f(batch(k)[0]).detach()

    return call


@case()
def states_of_modules(compiled):
    model = perceptron()
    f = compiled(lambda x: sum(v.sum() for v in model.state_dict().values()) * x)

    def call(k):
        if k == 3:
            model.register_buffer("more", torch.ones(3) * 5)
        return f(batch(k)[0]).detach()

    return call


@case()
def methods_of_instances(compiled):
    class Model:
        def __init__(self):
            self.weight = torch.ones(4)

        def forward(self, x):
            return x * self.weight

        def __len__(self):
            return 2

        @property
        def bias(self):
            return 1.0

    model = Model()
    f = compiled(lambda x: model.forward(x) * len(model) + model.bias)

    def call(k):
        if k == 1:
            model.forward = lambda x: x + 1
        if k == 2:
            Model.bias = property(lambda self: 5.0)
        if k == 3:
            Model.__len__ = lambda self: 7
        if k == 4:
            del model.forward
        if k == 5:
            model.weight = torch.ones(4) * 9
        return f(batch(k)[0])

    return call


@case()
def super_classes(compiled):
    class Base(nn.Module):
        def forward(self, x):
            return x * 2

    class Other(nn.Module):
        def forward(self, x):
            return x * 3

    class Model(Base):
        def forward(self, x):
            return super().forward(x) + 1

    model = Model()
    f = compiled(model)

    def call(k):
        if k == 2:
            Base.forward = lambda self, x: x * 5
        if k == 4:
            Model.__bases__ = (Other,)
        return f(batch(k)[0])

    return call


@case()
def sets_and_nested_containers(compiled):
    layers = {"a": [nn.Linear(4, 4), {"b": (nn.Tanh(), nn.ReLU())}]}

    def f(x):
        first, rest = layers["a"]
        for layer in rest["b"]:
            x = layer(first(x))
        return x

    f = compiled(f)

    def call(k):
        if k == 2:
            layers["a"][1]["b"] = (nn.Sigmoid(),)
        if k == 4:
            layers["a"][0] = nn.Linear(4, 4)
        return f(batch(k)[0]).detach()

    return call


@case()
def tensors_in_global_dicts(compiled):
    cache = {"w": torch.ones(4), "b": torch.zeros(4)}
    f = compiled(lambda x: x * cache["w"] + cache.get("b", 3.0))

    def call(k):
        if k == 1:
            cache["w"].mul_(3)
        if k == 2:
            cache["w"] = torch.ones(4) * 5
        if k == 3:
            del cache["b"]
        if k == 4:
            cache["w"] = cache["w"][::1] * 2
        return f(batch(k)[0])

    return call


@case()
def recursion_by_depth(compiled):
    depth = [2]

    def power(x, n):
        return x if n == 0 else power(x * x, n - 1)

    f = compiled(lambda x: power(x, depth[0]))

    def call(k):
        depth[0] = 1 + k // 2
        return f(batch(k)[0])

    return call


@case()
def several_optimizers_in_a_list(compiled):
    models = [nn.Linear(4, 3) for _ in range(2)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in models]

    @compiled
    def step(x, y):
        losses = []
        for m, o in zip(models, optimizers):
            o.zero_grad()
            losses.append(F.cross_entropy(m(x), y))
            losses[-1].backward()
            o.step()
        return [loss.detach() for loss in losses]

    def call(k):
        if k == 2:
            optimizers[0] = torch.optim.Adam(models[0].parameters(), lr=0.1)
        if k == 4:
            models.pop(), optimizers.pop()
        return step(*batch(k))

    call.kept = models, optimizers
    return call


@case()
def groups_replaced_in_place(compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = compiled(trainer(model, optimizer))

    def call(k):
        group = optimizer.param_groups[0]
        if k == 2:
            optimizer.param_groups[0] = {**group, "params": group["params"][:2]}
        if k == 3:
            group["params"][0] = list(model.parameters())[3]
        if k == 4:
            optimizer.param_groups[0]["params"][0] = list(model.parameters())[3]
        if k == 5:
            optimizer.param_groups.append({**group, "params": list(model.parameters())[:1]})
        return step(*batch(k))

    call.kept = model
    return call


@case()
def states_replaced(compiled):
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    step = compiled(trainer(model, optimizer))

    def call(k):
        first = next(iter(model.parameters()))
        if k == 2:
            optimizer.state[first]["exp_avg"] = torch.zeros_like(first)
        if k == 3:
            optimizer.state = type(optimizer.state)(dict)
        if k == 4:
            optimizer.state[first]["step"].fill_(100.0)
        return step(*batch(k))

    call.kept = model
    return call


@case()
def gradients_dropped_between(compiled):
    w = torch.ones(4, requires_grad=True)

    @compiled
    def step(x):
        (w * x).sum().backward()
        return w.grad.sum()

    def call(k):
        if k % 2:
            w.grad = None
        elif k == 4:
            w.grad = torch.ones(4)
        return step(batch(k)[0])

    return call


@case()
def slices_written_by_python_numbers(compiled):
    state = {"at": 0}
    buffer = torch.zeros(6, 4)

    def f(x):
        buffer[state["at"]] = x.sum(0)
        return buffer * 2

    f = compiled(f)

    def call(k):
        state["at"] = k
        return f(batch(k)[0])

    return call


@case()
def keyword_arguments(compiled):
    def f(x, *args, scale=1.0, **options):
        for a in args:
            x = x + a
        return x * scale + sum(options.values())

    f = compiled(f)
    given = [{}, {"scale": 2.0}, {"a": 1.0}, {"b": 1.0}, {"b": 1.0, "a": 2.0}, {"scale": 2.0}]
    return lambda k: f(batch(k)[0], *range(k), **given[k])


@case()
def exceptions_of_some_calls(compiled):
    limit = [3]

    def f(x):
        if x.shape[0] > limit[0]:
            raise ValueError("too many")
        return x * 2

    f = compiled(f)

    def call(k):
        limit[0] = 3 + k
        try:
            return f(batch(k, 5)[0])
        except ValueError as error:
            return str(error)

    return call


@case()
def subclasses_of_tensors(compiled):
    class Named(torch.Tensor):
        @property
        def doubled(self):
            return self * 2

    f = compiled(lambda x: x.doubled if isinstance(x, Named) else x * 5)

    def call(k):
        x = batch(k)[0]
        if k == 4:
            Named.doubled = property(lambda self: self * 7)
        return f(x.as_subclass(Named) if k % 2 == 0 and hasattr(x, "as_subclass") else x)

    return call


@case()
def identities(compiled):
    a, b = torch.ones(4), torch.ones(4)
    f = compiled(lambda x, y: x * 2 if x is y else x * 3 if x is a else x * 5)
    pairs = [(a, a), (a, b), (b, a), (b, b), (a, a), (b, a)]
    return lambda k: f(*pairs[k])


@case()
def parameters_frozen_by_one_step_and_freed_by_another(compiled):
    critic, maker = nn.Linear(4, 1), nn.Linear(4, 4)
    rates = (
        torch.optim.SGD(critic.parameters(), lr=0.1),
        torch.optim.SGD(maker.parameters(), lr=0.1),
    )

    def step(x, free):
        critic.requires_grad_(free)
        rates[free is False].zero_grad()
        loss = critic(maker(x)).mean() * (1 if free else -1)
        loss.backward()
        rates[free is False].step()
        return loss

    step = compiled(step)

    def call(k):
        loss = step(batch(k)[0], k % 3 != 2)
        return loss, critic.weight.requires_grad, loss.requires_grad

    call.kept = critic, maker
    return call


@case()
def leaves_of_a_result_that_begin_or_cease_to_require_grad(compiled):
    w, v = torch.ones(4), torch.ones(4, requires_grad=True)

    def f(x):
        w.requires_grad_(True)
        loss = (w * x * v).sum()
        v.requires_grad_(False)
        return loss

    f = compiled(f)

    def call(k):
        w.requires_grad_(k % 4 == 3)
        v.requires_grad_(True)
        w.grad = v.grad = None
        loss = f(batch(k)[0])
        loss.backward()
        return loss, w.requires_grad, v.requires_grad, w.grad, v.grad is None

    return call


@pytest.mark.parametrize("name", CASES)
def test_changes(name):
    check(CASES[name], REFUSED[name])


def test_a_gradient_that_is_the_parameter_itself():
    def losses(compiling):
        p = torch.zeros(3).requires_grad_()
        optimizer = torch.optim.SGD([p], lr=0.1)
        step = lambda: optimizer.step()  # noqa: E731
        step, found = torch.compile(step) if compiling else step, []
        for k in range(6):
            p.grad = p.detach() if k % 3 == 2 else torch.ones(3) * (k + 1)
            step()
            found.append((p.tolist(), p.grad.tolist()))
        return found

    assert losses(True) == losses(False)
