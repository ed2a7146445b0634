"""NumPy arrays beside tensors, DLPack, copies and pickles."""

import copy
import pickle
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

import microtorch as mt

PROTOCOLS = (2, 3, 4, 5)
HAS_TORCH = find_spec("torch") is not None

# Expressions of a tensor t, arrays a and m, and a tensor g that requires grad.
EXPRESSIONS = """
np.add(t, a)
np.add(a, t)
np.exp(t)
np.sqrt(i)
np.maximum(t, a)
np.add(t, 1)
np.multiply(t, t)
np.abs(t)
t + a
t * a
a * t
a - t
a / t
t - a
t / a
a ** t
t ** a
t @ a
m @ a
np.matmul(m, a)
a == t
np.float32(2) * t
np.float64(2) * t
t * np.float64(2)
np.float64(2) + g
a + t
a + g
np.exp(g)
np.asarray(g)
np.asarray(t)
np.array(t)
np.asarray(t, dtype=np.int32)
np.concatenate([t, t])
np.stack([t, a])
np.dot(t, a)
np.where(t > 1, t, a)
np.allclose(t, t)
np.isclose(t, a)
np.linalg.norm(t)
np.transpose(m)
np.add(t, t, out=a)
np.array([g.detach(), t])
np.ones(3)[i]
[1, 2, 3][i[0]]
np.linspace(0, 1, 2) * t
np.from_dlpack(t)
np.from_dlpack(t[::2])
np.from_dlpack(b)
np.from_dlpack(g)
g.__dlpack__()
torch.from_dlpack(a)
torch.from_dlpack(t)
torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(t))
tuple(int(n) for n in t.__dlpack_device__())
""".strip().splitlines()


def rounded(array):
    return (np.round(array, 6) if array.dtype.kind == "f" else array).tolist()


def evaluated(torch, code):
    """Kind, dtype and elements of what an expression gives, or the exception's type."""
    names = {
        "torch": torch, "np": np, "t": torch.tensor([1.0, 2.0]), "a": np.array([3.0, 4.0]),
        "m": torch.ones(2, 2), "i": torch.tensor([1, 2]), "b": torch.tensor([True, False]),
        "g": torch.tensor([1.0, 2.0], requires_grad=True),
    }  # fmt: skip
    try:
        value = eval(code, names)
    except Exception as error:
        return type(error).__name__
    if isinstance(value, torch.Tensor):
        array = value.detach().numpy()
        return "tensor", array.dtype, rounded(array), value.requires_grad
    if isinstance(value, np.ndarray):
        return "array", value.dtype, rounded(value)
    return type(value).__name__, repr(value)


@pytest.mark.skipif(not HAS_TORCH, reason="compares with PyTorch: pip install torch==2.13.0")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", EXPRESSIONS)
def test_numpy_beside_tensors_as_in_pytorch(code):
    assert evaluated(mt, code) == evaluated(import_module("torch"), code)


def test_arrays_share_memory():
    t = mt.zeros(2, 3)
    for array in (t.numpy(), np.asarray(t), np.from_dlpack(t), t.__array__()):
        array += 1
    assert t.tolist() == [[4.0] * 3] * 2
    assert not np.shares_memory(np.array(t), t.numpy())
    assert not np.shares_memory(t.__array__(copy=True), t.numpy())
    with pytest.raises(ValueError, match="Unable to avoid copy"):
        np.asarray(t, dtype=np.float64, copy=False)


def test_comparison_with_arrays_works_on_both_sides():
    """PyTorch refuses these; here they are elementwise."""
    t, a = mt.tensor([1.0, 2.0]), np.array([2.0, 1.0])
    assert (t < a).tolist() == (a > t).tolist() == [True, False]


def test_dlpack_shares_memory_and_refuses_what_requires_grad():
    array = np.arange(3.0)
    t = mt.from_dlpack(array)
    t[0] = 9
    assert array[0] == 9
    assert np.shares_memory(mt.from_dlpack(t).numpy(), array)
    with pytest.raises(BufferError, match=r"use tensor\.detach"):
        mt.from_dlpack(mt.ones(2, requires_grad=True))
    with pytest.raises(TypeError, match="__dlpack__"):
        mt.from_dlpack([1, 2])


@pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: pip install torch==2.13.0")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
def test_pytorch_shares_memory_both_ways(dtype):
    torch = import_module("torch")
    theirs = torch.zeros(2, 3, dtype=getattr(torch, dtype))
    mine = mt.from_dlpack(theirs)
    mine[0, 1] = 1
    assert theirs[0, 1].item() == 1 and str(mine.dtype) == str(theirs.dtype)
    back = torch.from_dlpack(mine.t())
    back[2, 1] = 1
    assert mine[1, 2].item() == 1 and theirs[1, 2].item() == 1
    assert mt.from_numpy(theirs.numpy()).data_ptr() == theirs.data_ptr()


@pytest.mark.skipif(find_spec("jax") is None, reason="needs JAX: pip install jax")
def test_jax_arrays_both_ways():
    jnp = import_module("jax.numpy")
    theirs = jnp.arange(3.0)
    mine = mt.from_dlpack(theirs)
    assert mine.tolist() == [0.0, 1.0, 2.0]
    assert mine.data_ptr() == theirs.unsafe_buffer_pointer()
    with pytest.raises(ValueError, match="read-only"):
        mine.add_(1)
    back = jnp.from_dlpack(mt.tensor([1.0, 2.0]))
    assert back.tolist() == [1.0, 2.0]


# --------------------------------------------------------------------------- copies and pickles
def copies(value):
    """The value after every protocol of pickle and after deepcopy."""
    return [*(pickle.loads(pickle.dumps(value, p)) for p in PROTOCOLS), copy.deepcopy(value)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: mt.tensor(2.5),
        lambda: mt.zeros(2, 0),
        lambda: mt.ones(2, requires_grad=True),
        lambda: mt.arange(6).reshape(2, 3).t(),
        lambda: mt.tensor([True]),
        lambda: mt.ones(3, dtype=mt.float16),
        lambda: mt.nn.Parameter(mt.ones(2, 2)),
        lambda: mt.nn.Parameter(mt.ones(2), requires_grad=False),
    ],
)
def test_tensors_come_back(make):
    t = make()
    for c in copies(t):
        assert type(c) is type(t) and c.requires_grad == t.requires_grad and c.is_leaf
        assert c.shape == t.shape and c.dtype == t.dtype
        assert c.stride() == t.stride() or not t.numel()
        assert c.tolist() == t.tolist() and c.data_ptr() != t.data_ptr()


def test_attached_attributes_come_along():
    t = mt.ones(2)
    t.note = ["here"]
    for c in copies(t):
        assert c.note == ["here"] and c.note is not t.note
    assert copy.copy(t).note is t.note


def test_shallow_copies_share_memory():
    for t in (mt.ones(2, requires_grad=True), mt.ones(2, 3).t(), mt.nn.Parameter(mt.ones(2))):
        c = copy.copy(t)
        assert c is not t and type(c) is type(t)
        assert c.data_ptr() == t.data_ptr() and c.stride() == t.stride()
        assert c.requires_grad == t.requires_grad


def test_views_share_memory_in_a_deep_copy():
    base = mt.arange(6.0).reshape(2, 3)
    base, row, flipped, again = copy.deepcopy([base, base[1], base.t(), base])
    assert again is base
    row[0] = 9
    assert base[1, 0] == 9 and flipped[0, 1] == 9
    alone = copy.deepcopy(base[:, 1])
    assert alone.tolist() == [1.0, 4.0] and alone.data_ptr() != base[:, 1].data_ptr()


@pytest.mark.parametrize("kind", ["f4", "u1", "longlong"])
def test_a_dtype_that_numpy_has_made_anew(kind):
    """That of a pickled array equals NumPy's own one, and is another object."""
    array = pickle.loads(pickle.dumps(np.ones(3, kind)))
    assert array.dtype is not mt.from_numpy(array)._array.dtype
    tensors = [mt.from_numpy(array), mt.tensor(array), mt.as_tensor(array), mt.Tensor(array),
               *copies(mt.tensor(array))]  # fmt: skip
    for t in tensors:
        one = mt.ones(3, dtype=t.dtype)
        assert (t + one).tolist() == (one * array + t).tolist() == [2] * 3
    norm = pickle.loads(pickle.dumps(mt.nn.BatchNorm1d(3))).eval()
    assert norm(mt.ones(2, 3)).shape == (2, 3)


def test_non_leaves_are_pickled_as_leaves_and_not_deepcopied():
    t = mt.ones(2, requires_grad=True) * 2
    c = pickle.loads(pickle.dumps(t))
    assert c.is_leaf and c.requires_grad
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(t)


def test_gradients_are_deepcopied_and_not_pickled():
    t = mt.ones(2, requires_grad=True)
    (t * 3).sum().backward()
    c = copy.deepcopy(t)
    assert c.grad.tolist() == [3.0, 3.0] and c.grad.data_ptr() != t.grad.data_ptr()
    assert pickle.loads(pickle.dumps(t)).grad is None


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_modules_and_optimizers_go_on_where_they_were(optimizer):
    mt.manual_seed(0)
    model = mt.nn.Sequential(mt.nn.Linear(2, 3), mt.nn.Tanh(), mt.nn.Linear(3, 1))
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    stepper = getattr(mt.optim, optimizer)(model.parameters(), lr=0.1, **options)
    x = mt.randn(5, 2)

    def train(model, stepper):
        for _ in range(3):
            stepper.zero_grad()
            (model(x) ** 2).sum().backward()
            stepper.step()

    train(model, stepper)
    for m, s in copies((model, stepper)):
        assert all(a is b for a, b in zip(m.parameters(), s.param_groups[0]["params"]))
        fresh, other = copy.deepcopy((model, stepper))
        train(m, s)
        train(fresh, other)
        for a, b in zip(m.parameters(), fresh.parameters()):
            np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    shallow = copy.copy(model[0])
    assert shallow.weight is model[0].weight


def test_numpy_reductions_of_tensors():
    """NumPy asks the tensor for them; PyTorch refuses the arguments that NumPy passes along."""
    t = mt.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert np.sum(t).item() == 10
    assert np.sum(t, axis=0).tolist() == [4, 6]


@pytest.mark.parametrize("name", ["Tensor", "FloatTensor", "LongTensor", "BoolTensor"])
def test_old_constructors_take_arrays_and_sequences(name):
    create = getattr(mt, name)
    dtype = create([1]).dtype
    for data in (np.array([1, 0]), np.array([1.0, 0.0]), range(2), (1, 0), mt.tensor([1, 0])):
        made = create(data)
        assert made.dtype is dtype and made.tolist() == create(list(data)).tolist()
    assert create(2, 3).shape == create(mt.Size([2, 3])).shape == (2, 3)
    assert create().shape == (0,)
    for data in (2.5, None, {1: 2}, map(int, [1]), np.float32(1)):
        with pytest.raises(TypeError, match=r"new\(\): data must be a sequence \(got"):
            create(data)


def test_old_constructors_share_arrays_of_their_type():
    array = np.zeros(2, "f4")
    tensors = mt.Tensor(array), mt.FloatTensor(array), mt.DoubleTensor(array)
    array[0] = 5
    assert [t[0].item() for t in tensors] == [5, 5, 0]
