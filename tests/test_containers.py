"""Containers and the tree of modules, beside PyTorch's: each case gives the same text."""

import copy

import pytest

import microtorch

CASES = """
seq | c.insert(1, nn.Tanh())
seq | c.insert(-1, nn.Tanh())
seq | c.insert(3, nn.Tanh())
seq | c.insert(9, nn.Tanh())
seq | c.insert(0, 1)
seq | c.pop(1)
seq | c.pop(-1)
seq | c.pop(5)
seq | c.pop(slice(0, 2))
seq | c + nn.Sequential(nn.Tanh())
seq | c.__iadd__(nn.Sequential(nn.Tanh()))
seq | c + [nn.Tanh()]
seq | c * 2
seq | 2 * c
seq | c.__imul__(2)
seq | c * 0
seq | c * 1.5
seq | c.__delitem__(0)
seq | c.__delitem__(slice(0, 3, 2))
seq | c.__delitem__(7)
seq | c.extend([nn.Tanh(), nn.ReLU()])
seq | c.extend(1)
seq | c.append(nn.Tanh()).append(nn.ReLU())
seq | c.__setitem__(1, nn.Tanh()) or c.insert(0, nn.ReLU())
seq | c.__setitem__(1, nn.Tanh()) or c.pop(0)
seq | c[1:]
seq | c["a"]
seq | "0" in dir(c)
named | c.pop(0)
named | c[1:]
named | c.__delitem__(1)
list | c.insert(1, nn.Tanh())
list | c.insert(3, nn.Tanh())
list | c.pop(0)
list | c.pop()
list | c + [nn.Tanh()]
list | c + nn.ModuleList([nn.Tanh()])
list | c.__iadd__([nn.Tanh()])
list | c.__delitem__(-1)
list | c.__delitem__(slice(1, None))
list | c.extend(3)
list | c[5]
list | c[0:2]
list | nn.ModuleList(3)
dict | c.update({"c": nn.Tanh(), "a": nn.ReLU()})
dict | c.update([["c", nn.Tanh()]])
dict | c.update(nn.ModuleDict({"z": nn.Tanh()}))
dict | c.update(1)
dict | c.update([1])
dict | c.update([(1, 2, 3)])
dict | c.pop("a")
dict | c.pop("x")
dict | c.clear()
dict | c.__delitem__("b")
dict | c.__setitem__("x", 1)
plist | c.append(torch.ones(4))
plist | c.append("word")
plist | c.extend([torch.ones(1)])
plist | c.extend(torch.ones(1))
plist | c.__iadd__([torch.ones(1)])
plist | c.__setitem__(0, torch.ones(7))
plist | c.__setitem__(5, torch.ones(7))
plist | c[0:1]
plist | c[-1]
plist | c[2]
plist | c(1)
net | c.get_parameter("0.weight").shape
net | c.get_parameter("0.x")
net | c.get_parameter("1.running_mean")
net | c.get_parameter("2")
net | c.get_buffer("1.running_mean").shape
net | c.get_buffer("0.weight")
net | c.get_buffer("0.x")
net | c.get_submodule("2.0")
net | c.get_submodule("0.weight")
net | c.set_submodule("2.0", nn.Tanh())
net | c.set_submodule("2.1", nn.Tanh())
net | c.set_submodule("2.1", nn.Tanh(), strict=True)
net | c.set_submodule("", nn.Tanh())
net | c.set_submodule("0.weight", nn.Tanh())
net | c.set_submodule("5.0", nn.Tanh())
net | c.set_submodule("0", 1)
net | c.half().get_parameter("0.weight").dtype
net | c.type(torch.float64).get_buffer("1.num_batches_tracked").dtype
net | c.type(torch.int64)
net | c.to_empty(device="cpu").get_parameter("0.weight").shape
net | c.to_empty(device="cuda")
"""
SCENES = {
    "seq": "nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))",
    "named": "nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.ReLU()))",
    "list": "nn.ModuleList([nn.Linear(2, 3), nn.ReLU(), nn.ReLU()])",
    "dict": "nn.ModuleDict({'a': nn.Linear(2, 3), 'b': nn.ReLU()})",
    "plist": "nn.ParameterList([torch.ones(2), torch.ones(2, 3)])",
    "net": "nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.ReLU()))",
}


def outcome(torch, scene, code):
    """What a case gives and leaves, as text."""
    from collections import OrderedDict

    names = {"torch": torch, "nn": torch.nn, "OrderedDict": OrderedDict}
    names["c"] = eval(SCENES[scene], names)
    try:
        found = str(eval(code, names))
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    found = found.replace("microtorch.", "torch.").replace("torch.nn.modules.", "torch.nn.")
    return found, str(names["c"]), list(names["c"].state_dict())


@pytest.mark.parametrize("case", CASES.strip().splitlines())
def test_containers_beside_pytorch(case):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    scene, code = case.split(" | ")
    mine, theirs = outcome(microtorch, scene, code), outcome(torch, scene, code)
    if not theirs[0].startswith(("TypeError", "KeyError", "ValueError")):
        assert mine[0].startswith(theirs[0])
    assert mine[0].partition(":")[0] == theirs[0].partition(":")[0]
    assert mine[1:] == theirs[1:]


def test_bfloat16_is_refused():
    with pytest.raises(RuntimeError, match="no dtype bfloat16"):
        microtorch.nn.Linear(1, 1).bfloat16()


def test_hooks_of_states_beside_pytorch():
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")
    found = []
    for torch in (microtorch, pytorch):
        torch.manual_seed(0)
        net, seen = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU()), []
        inner = net[0]
        inner.register_state_dict_pre_hook(lambda m, *a: seen.append(("pre", *a)))
        net.register_state_dict_post_hook(lambda m, s, p, _: s.update(extra=torch.ones(1)))
        last = inner.register_state_dict_post_hook(lambda m, s, p, _: seen.append((list(s), p)))
        inner.register_load_state_dict_pre_hook(lambda m, s, p, *_: seen.append((list(s), p)))
        net.register_load_state_dict_pre_hook(lambda m, s, *_: s.pop("extra"))
        net.register_load_state_dict_post_hook(lambda m, keys: seen.append(repr(keys)))
        state = net.state_dict()
        last.remove()
        kept = copy.copy(state)
        net.load_state_dict(state)
        found.append((seen, list(state), list(state) == list(kept)))
        net.register_state_dict_post_hook(lambda *_: 1)
        with pytest.raises(RuntimeError, match="state_dict post-hook must return None"):
            net.state_dict()
    assert found[0] == found[1]


# ------------------------------------------------------------------------------------ Buffer
BUFFERS = """
m.a = Buffer(ones(2)); r = [list(m.state_dict()), m.a.tolist(), m.a.requires_grad]
m.a = Buffer(ones(2), persistent=False); r = [list(m.state_dict()), list(m._buffers)]
m.a = Buffer(ones(2)); m.a = ones(3); r = [isinstance(m.a, Buffer), m.state_dict()["a"].tolist()]
m.a = Buffer(ones(2), persistent=False); m.a = Buffer(ones(3)); r = list(m.state_dict())
m.a = Buffer(ones(2)); m.a = Buffer(ones(3), persistent=False); r = list(m.state_dict())
m.a = Buffer(ones(2)); m.a = None; r = [m.a, list(m.state_dict())]
m.a = Buffer(ones(2)); m.a = nn.Parameter(ones(1)); r = [list(m._buffers), list(m._parameters)]
m.p = nn.Parameter(ones(2)); m.p = Buffer(ones(1))
m.l = nn.Linear(1, 1); m.l = Buffer(ones(1))
m.z = 3; m.z = Buffer(ones(1))
m.__dict__.clear(); m.a = Buffer(ones(1))
b = Buffer(ones(2)); r = [isinstance(b, Buffer), isinstance(b + 1, Buffer), b.persistent, str(b)]
b = copy.deepcopy(Buffer(ones(2), persistent=False)); r = [isinstance(b, Buffer), b.persistent]
b = Buffer(); r = [b.shape, isinstance(ones(2), Buffer), isinstance(3, Buffer), type(b).__name__]
m.a = Buffer(ones(2)); r = [type(copy.deepcopy(m).double().a).__name__, str(m.a.dtype)]
""".strip().splitlines()


@pytest.mark.parametrize("code", BUFFERS)
def test_buffers_beside_pytorch(code):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")
    found = []
    for torch in (microtorch, pytorch):
        scope = {"nn": torch.nn, "Buffer": torch.nn.Buffer, "ones": torch.ones, "copy": copy}
        scope["m"] = torch.nn.Module()
        try:
            exec(code, scope)
            found.append(repr(scope["r"]))
        except Exception as error:
            found.append((type(error).__name__, str(error)))
    assert found[0] == found[1]
