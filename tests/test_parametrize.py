"""Parametrized weights, and the norms of gradients, beside PyTorch's."""

import copy
import importlib
import pickle
import warnings

import pytest

import microtorch
from microtorch import nn
from microtorch.nn.utils import parametrizations, parametrize


def flat(value):
    """Numbers and texts of a result."""
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in [k, *flat(v)]]
    if isinstance(value, (list, tuple)):
        return [x for v in value for x in flat(v)]
    return flat(value.tolist()) if hasattr(value, "tolist") else [value]


def names(torch):
    """What the samples below use."""
    nn = torch.nn

    class Double(nn.Module):
        def forward(self, x):
            return x * 2

    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).mT

        def right_inverse(self, x):
            return x.triu()

    class Sum(nn.Module):
        def forward(self, x, y):
            return x + y

        def right_inverse(self, x):
            return x / 4, x * 3 / 4

    class Made(nn.Module):
        """Of a function, and of its inverse."""

        def __init__(self, forward, right_inverse=None):
            super().__init__()
            self.function = forward
            if right_inverse:
                self.right_inverse = right_inverse

        def forward(self, *x):
            return self.function(*x)

    def layer(*parametrizations, size=3):
        made = nn.Linear(size, size)
        for each in parametrizations:
            P.register_parametrization(made, "weight", each)
        return made

    def error(function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            return [type(error).__name__, str(error)]

    def state(module):
        return {k: v.detach() for k, v in module.state_dict().items()}

    def trained(module, x, steps=3):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        found = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = module(x).square().mean()
            loss.backward()
            optimizer.step()
            found += [loss.detach(), state(module)]
        return found

    where = torch.__name__ + ".nn.utils"
    P, Z = (importlib.import_module(f"{where}.{n}") for n in ("parametrize", "parametrizations"))
    torch.manual_seed(0)
    return {**locals(), "U": nn.utils, "x": torch.arange(6.0).view(2, 3), "nn": nn}


SAMPLES = """
m = layer(Double()); r = [m, state(m), m.weight, m.weight.requires_grad, m(x)]
m = layer(Symmetric(), Double()); r = [m, state(m), m.weight, trained(m, x)]
m = layer(Symmetric()); m.weight = torch.ones(3, 3); r = [m.weight, state(m), m(x)]
m = layer(Sum()); m.weight = torch.ones(3, 3); r = [m, m.weight, state(m), trained(m, x)]
m = layer(Double()); p = m.parametrizations.weight.original; P.remove_parametrizations(m, "weight"); r = [m, state(m), m.weight is p]
m = layer(Symmetric()); P.remove_parametrizations(m, "weight", leave_parametrized=False); r = [m, state(m)]
m = layer(Sum()); P.remove_parametrizations(m, "weight"); r = [m, state(m), isinstance(m.weight, nn.Parameter)]
m = layer(Double()); P.register_parametrization(m, "bias", Double()); P.remove_parametrizations(m, "weight"); r = [m, state(m), m(x)]
m = nn.BatchNorm1d(3); P.register_parametrization(m, "running_mean", Double()); r = [m, m.eval()(x), state(m)]
m = nn.BatchNorm1d(3); P.register_parametrization(m, "running_mean", Sum()); P.remove_parametrizations(m, "running_mean"); r = [m, state(m)]
m = layer(Double()); r = [P.is_parametrized(m), P.is_parametrized(m, "bias"), P.is_parametrized(layer()), P.type_before_parametrizations(m) is nn.Linear, type(m).__name__, isinstance(m, nn.Linear)]
m = layer(); m.weight.requires_grad_(False); P.register_parametrization(m, "weight", Sum()); r = [q.requires_grad for q in m.parameters()]
m = layer(Double()); a = m.weight; b = m.weight is m.weight
with P.cached(): r = [m.weight is m.weight, b, m.weight]
m = layer(Double()); r = [error(pickle.dumps, m), error(setattr, m, "weight", x), error(setattr, m, "weight", nn.Parameter(x)), error(m.register_parameter, "weight", None)]
m = layer(Double()).eval(); P.register_parametrization(m, "weight", Double()); r = [q.training for q in m.parametrizations.weight]
m = layer(); P.register_parametrization(m, "weight", Made(lambda x: x[:1]), unsafe=True); r = [m.weight, state(m)]
m = nn.Sequential(nn.Linear(3, 2), nn.Tanh()); P.register_parametrization(m[0], "weight", Double()); r = [m, [n for n, _ in m.named_parameters()], trained(m, x)]
m = Z.weight_norm(nn.Linear(3, 2)); r = [m, state(m), trained(m, x), m.weight]
m = Z.weight_norm(nn.Linear(3, 2), dim=None); r = [m, state(m), trained(m, x)]
m = Z.weight_norm(nn.Linear(3, 2), dim=1); m.weight = torch.full((2, 3), 2.0); r = [state(m), trained(m, x)]
m = Z.weight_norm(nn.Linear(3, 2), "bias"); r = [m, state(m), trained(m, x)]
m = Z.weight_norm(nn.Conv1d(3, 2, 1)); r = [m, state(m), trained(m, x.view(1, 3, 2)), error(Z.weight_norm, layer(), dim=3), error(Z.weight_norm, layer(), "w")]
m = Z.weight_norm(nn.LSTM(3, 2), "weight_hh_l0"); r = [state(m), m(x.view(2, 1, 3))[0]]
m = Z.spectral_norm(nn.Linear(3, 2)); r = [m, state(m), trained(m, x), m.eval().weight, m.weight]
m = Z.spectral_norm(nn.Linear(3, 2), n_power_iterations=3, eps=1e-3); r = [trained(m, x)]
m = Z.spectral_norm(nn.ConvTranspose2d(2, 3, 2)); r = [m, state(m), m(torch.ones(1, 2, 2, 2))]
m = Z.spectral_norm(nn.Conv2d(2, 3, 2), dim=1); r = [m, state(m), m(torch.ones(1, 2, 2, 2))]
m = Z.spectral_norm(nn.Linear(3, 2), "bias"); r = [m, state(m), m(x)]
m = layer(); r = [error(Z.spectral_norm, m, n_power_iterations=0), error(Z.spectral_norm, m, "q"), error(Z.spectral_norm, m, dim=5)]
m = U.weight_norm(nn.Linear(3, 2)); r = [m, state(m), m.weight, isinstance(m.weight, nn.Parameter), trained(m, x), error(U.weight_norm, m), U.remove_weight_norm(m), state(m), m(x)]
m = U.weight_norm(nn.Conv2d(2, 3, 2), dim=1); m(torch.ones(1, 2, 2, 2)); c = copy.deepcopy(U.remove_weight_norm(m)); r = [m, state(c), isinstance(m.weight, nn.Parameter)]
m = U.spectral_norm(nn.Linear(3, 2)); r = [m, state(m), m.weight, trained(m, x), error(U.spectral_norm, m), m.eval()(x), m(x), U.remove_spectral_norm(m), state(m)]
m = U.spectral_norm(nn.ConvTranspose2d(2, 3, 2)); r = [m(torch.ones(1, 2, 2, 2)), state(m)]
m = layer(); r = [error(U.remove_weight_norm, m), error(U.remove_spectral_norm, m)]
m = nn.Sequential(layer(), Z.weight_norm(layer())); o = nn.Sequential(layer(), U.weight_norm(layer())); r = [m.load_state_dict(o.state_dict()), state(m), m(x), o(x)]
r = [U.get_total_norm([x, x.double() * 2], p) for p in (2, 1, 0, 3, 0.5, -1, float("inf"), float("-inf"))]
r = [U.get_total_norm([]), U.get_total_norm(x), error(U.get_total_norm, [x / 0], error_if_nonfinite=True), U.get_total_norm([nn.Parameter(x)]).requires_grad]
q = nn.Parameter(x * 1); q.grad = x * 1; r = [U.clip_grads_with_norm_([q, nn.Parameter(x)], 1, torch.tensor(5.0)), q.grad, U.clip_grads_with_norm_(q, 9, torch.tensor(5.0)), q.grad]
""".strip().splitlines()
SAMPLES = "\n".join(SAMPLES).replace("\nwith", "; exec('''with").splitlines()
SAMPLES = [s + "''')" if "exec('''" in s else s for s in SAMPLES]
SECOND = """
lambda x: 3 | None
lambda x: x[:1] | None
lambda x: x.double() | None
lambda x: x | lambda x: 3
lambda x: x | lambda x: x.double()
lambda x: x | lambda x: x[:1]
lambda x: x | lambda x: (x, x)
""".strip().splitlines()
FIRST = """
lambda x: 3 | None
lambda x: x | lambda x: 3
lambda x: x | lambda x: (x, 3)
lambda x: x | lambda x: x[:1]
lambda x: x * 2 | lambda x: x.double()
lambda x, y: x + y | lambda x: (x.double(), x)
lambda x, y: x | lambda x: (x[:1], x)
""".strip().splitlines()
ASSIGNED = """
m = layer(Made(lambda x: x, lambda x: x)); r = [error(setattr, m, "weight", 3)]
m = layer(Made(lambda x: x, lambda x: x)); r = [error(setattr, m, "weight", x.double())]
m = layer(Made(lambda x: x, lambda x: x)); m.weight = x; r = [m.weight, state(m)]
m = layer(Sum()); r = [error(setattr, m, "weight", torch.ones(3, 3).double())]
k = [2]; m = layer(Made(lambda x, *y: x, lambda x: (x,) * k[0])); k[0] = 3; r = [error(setattr, m, "weight", m.bias)]
m = layer(Sum()); r = [error(P.remove_parametrizations, m, "weight", leave_parametrized=False), error(P.remove_parametrizations, m, "bias")]
m = layer(); r = [error(P.register_parametrization, m, "weigh", Double())]
""".strip().splitlines()


def agree(code):
    """The sample gives the same numbers and texts with both libraries."""
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    found = []
    for library in (microtorch, torch):
        scope = {**names(library), "copy": copy, "pickle": pickle}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            exec(code, scope)
        found.append([x if isinstance(x, (int, float, str)) else repr(x) for x in flat(scope["r"])])
    assert len(found[0]) == len(found[1])
    for mine, theirs in zip(*found, strict=True):
        assert mine == (theirs if isinstance(theirs, str) else pytest.approx(theirs, 1e-4, 1e-5))


@pytest.mark.parametrize("code", [*SAMPLES, *ASSIGNED])
def test_as_in_pytorch(code):
    agree(code)


@pytest.mark.parametrize("place", ["first", "second"])
@pytest.mark.parametrize("number", range(7))
def test_what_does_not_fit_is_refused(place, number):
    forward, back = (FIRST if place == "first" else SECOND)[number].split(" | ")
    before = "Double()" if place == "second" else ""
    agree(
        f"m = layer({before}); r = [error(P.register_parametrization, m, 'weight', "
        f"Made({forward}, {back})), m, state(m)]"
    )


def test_an_empty_generator_is_warned_of():
    with pytest.warns(UserWarning, match="empty generator"):
        assert float(nn.utils.clip_grad_norm_((p for p in ()), 1.0)) == 0


@pytest.mark.parametrize("apply", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_the_old_functions_are_refused_by_compile(apply):
    """They put a tensor into the module at every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = apply(nn.Linear(3, 2))
    run, x = microtorch.compile(lambda x: model(x)), microtorch.ones(1, 3)
    with pytest.raises(RuntimeError, match="kept outside of it"):
        for _ in range(4):
            microtorch.testing.assert_close(run(x), x @ model.weight.T + model.bias)


def test_a_copy_is_parametrized_on_its_own():
    scope = names(microtorch)
    model = scope["layer"](scope["Double"]())
    other = copy.deepcopy(model)
    parametrize.register_parametrization(other, "bias", scope["Double"]())
    assert type(model.bias) is nn.Parameter and other.bias.grad_fn is not None
    assert model.weight.tolist() == other.weight.tolist()
    parametrize.remove_parametrizations(other, "weight")
    assert parametrize.is_parametrized(model, "weight") and other.bias.grad_fn is not None


def test_a_program_notices_parametrizations():
    model, x = nn.Linear(3, 2), microtorch.arange(6.0).view(2, 3)
    run = microtorch.compile(lambda: model(x).sum())

    def same():
        for _ in range(3):
            assert float(run().detach()) == pytest.approx(float(model(x).sum().detach()), 1e-5)

    class Triple(nn.Module):
        def forward(self, w):
            return w * 3

    same()
    parametrize.register_parametrization(model, "weight", Triple())
    same()
    parametrize.register_parametrization(model, "weight", Triple())
    same()
    with microtorch.no_grad():
        model.parametrizations.weight.original.mul_(2)
    same()
    parametrize.remove_parametrizations(model, "weight")
    same()
    parametrizations.weight_norm(model)
    same()
    with parametrize.cached():
        same()
