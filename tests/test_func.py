"""`torch.func` beside PyTorch's."""

import importlib

import pytest

import microtorch

FUNCTIONAL = """
call(model, {"0.weight": ones(3, 2)}, x)
call(model, {"0.weight": ones(3, 2)}, (x,))
call(model, {"0.weight": ones(3, 2, requires_grad=True), "1.running_mean": ones(3)}, x)
call(model, ({"0.weight": ones(3, 2)}, {"0.bias": ones(3)}), [x][0])
call(model, {}, x)
call(model, dict(model.named_parameters()), x)
call(model, {"0.weight": torch.nn.Parameter(ones(3, 2))}, x)
call(tied, {"a.weight": w}, x, {"k": 2})
call(tied, {"b.weight": w}, x)
call(tied, {"a.weight": w}, x, tie_weights=False)
call(tied, {"a.weight": w, "b.weight": w}, x)
call(tied, {"a.weight": w, "b.weight": w * 2}, x, tie_weights=False)
call(tied, {"a.weight": w, "s": w[0]}, x, strict=True)
call(tied, {"p": w}, x)
call(counter, {"c": w}, x)
call(counter, {"nowhere": w}, x)
call(lstm, {k: v * 2 for k, v in lstm.named_parameters()}, x)[0]
""".strip().splitlines()
ERRORS = """
call(model, {"0.weigt": w}, x, strict=True)
call(model, {"0.weight": w}, x, strict=True)
call(model, {**dict(model.named_parameters()), **dict(model.named_buffers()), "z": w}, x, strict=True)
call(model, {"5.weight": w}, x)
call(model, {"0.weight": 3.0}, x)
call(model, {"": w}, x)
call(model, [{"0.weight": w}, {"0.weight": w}], x)
call(model, 3, x)
call(model, [3], x)
call(tied, {"a.weight": w, "b.weight": w * 2}, x)
""".strip().splitlines()


def scope(torch):
    nn = torch.nn

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Linear(2, 2, bias=False) for _ in range(2))
            self.b.weight = self.a.weight
            self.register_buffer("s", torch.ones(2))
            self.register_parameter("p", None)

        def forward(self, x, k=1):
            return self.a(x) + 10 * self.b(x) * k * self.s

    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("c", torch.zeros(()))

        def forward(self, x):
            self.c = self.c + 1
            return x[:2] + self.c

    torch.manual_seed(0)
    return {
        "torch": torch,
        "call": importlib.import_module(torch.__name__ + ".func").functional_call,
        "model": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sigmoid()),
        "tied": Tied(),
        "counter": Counter(),
        "lstm": nn.LSTM(2, 3),
        "ones": torch.ones,
        "w": torch.arange(4.0).view(2, 2),
        "x": torch.arange(8.0).view(4, 2),
    }


def both(run):
    pytest.importorskip("torch", reason="parity needs PyTorch")
    return [run(scope(importlib.import_module(name))) for name in ("microtorch", "torch")]


@pytest.mark.parametrize("code", FUNCTIONAL)
def test_functional_call(code):
    def run(names):
        out = eval(code, names)
        kept = [v.tolist() for m in ("model", "tied", "lstm", "counter")
                for v in names[m].state_dict().values()]  # fmt: skip
        return out.tolist(), out.requires_grad, kept

    mine, theirs = both(run)
    assert mine[1] == theirs[1]
    microtorch.testing.assert_close(microtorch.tensor(mine[0]), microtorch.tensor(theirs[0]))
    for a, b in zip(mine[2], theirs[2], strict=True):
        microtorch.testing.assert_close(microtorch.tensor(a), microtorch.tensor(b))


@pytest.mark.parametrize("code", ERRORS)
def test_errors(code):
    def run(names):
        before = {n: v for n, v in names["model"].named_parameters()}
        with pytest.raises(Exception) as caught:
            eval(code, names)
        assert all(v is before[n] for n, v in names["model"].named_parameters())
        return type(caught.value).__name__, str(caught.value)

    mine, theirs = both(run)
    assert mine == theirs


def test_buffers_that_the_call_changes():
    def run(names):
        torch = names["torch"]
        given = {"1.running_mean": torch.zeros(3), "1.num_batches_tracked": torch.tensor(7)}
        names["call"](names["model"], given, names["x"])
        of_counter = {"c": torch.tensor(5.0)}
        names["call"](names["counter"], of_counter, names["x"])
        found = [*given.values(), *of_counter.values(), *names["model"].buffers()]
        return [v.tolist() for v in found], float(names["counter"].c)

    mine, theirs = both(run)
    assert mine[1] == theirs[1] == 0
    for a, b in zip(mine[0], theirs[0], strict=True):
        assert a == pytest.approx(b, 1e-6)


def test_all_is_put_back_after_an_error():
    names = scope(microtorch)
    model = names["model"]
    weight = model[0].weight
    with pytest.raises(RuntimeError):
        names["call"](model, {"0.weight": microtorch.ones(7, 7)}, names["x"])
    assert model[0].weight is weight and dict(model.named_parameters())["0.weight"] is weight


def test_gradients_go_to_what_was_given():
    names = scope(microtorch)
    model, x = names["model"], names["x"]
    given = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    names["call"](model, given, x).square().sum().backward()
    found = {k: v.grad.tolist() for k, v in given.items()}
    assert all(p.grad is None for p in model.parameters())
    model(x).square().sum().backward()
    assert found == {k: p.grad.tolist() for k, p in model.named_parameters()}


def test_a_compiled_module_sees_the_other_tensors():
    names = scope(microtorch)
    model, x, call = names["model"].eval(), names["x"], names["call"]
    run = microtorch.compile(model)
    given = {"0.weight": microtorch.ones(3, 2)}
    own, others = model(x), call(model, given, x)
    assert not microtorch.allclose(own, others)

    class Around(microtorch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.run = model, run

        def forward(self, x):
            return self.run(x)

    around = Around()
    for _ in range(4):
        microtorch.testing.assert_close(around(x), own)
        found = call(around, {"inner.0.weight": given["0.weight"]}, x)
        microtorch.testing.assert_close(found, others)


def test_what_portable_code_asks_of_a_compiler():
    compiler = microtorch.compiler

    @compiler.assume_constant_result
    @compiler.allow_in_graph
    def step(x):
        compiler.cudagraph_mark_step_begin()
        return x * (2 if compiler.is_compiling() or compiler.is_dynamo_compiling() else 3)

    compiled = compiler.compile(step)
    for _ in range(4):
        assert step(microtorch.ones(2)).tolist() == compiled(microtorch.ones(2)).tolist() == [3, 3]
    compiler.reset()
    assert compiled(microtorch.ones(2)).tolist() == [3, 3] and not compiler.is_exporting()
    with pytest.raises(AttributeError, match=r"microtorch has no torch\.compiler\.disable"):
        compiler.disable
