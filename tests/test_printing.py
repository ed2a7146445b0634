"""Printed tensors: stored forms, and the same text as PyTorch's where that is installed."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microtorch as mt
from microtorch.printing import get_printoptions, set_printoptions, tensor_repr

FORMS = [
    (np.float32(5), "tensor(5.)"),
    (np.float32([1, 2.5]), "tensor([1.0000, 2.5000])"),
    (np.float32([0.001, 1]), "tensor([0.0010, 1.0000])"),
    (np.float32([1e-4, 1]), "tensor([1.0000e-04, 1.0000e+00])"),
    (np.float32([123456789.0]), "tensor([1.2346e+08])"),
    (np.float32(123456.789), "tensor(123456.7891)"),
    (np.float32([100000.5]), "tensor([100000.5000])"),
    (np.float32([np.inf, -1.5]), "tensor([    inf, -1.5000])"),
    (np.float32([np.nan, 1]), "tensor([nan, 1.])"),
    (np.float32([-0.0, 2]), "tensor([-0., 2.])"),
    (np.array([True, False]), "tensor([ True, False])"),
    (np.arange(2000), "tensor([   0,    1,    2,  ..., 1997, 1998, 1999])"),
    (np.zeros((2, 0), np.float32), "tensor([], size=(2, 0))"),
    (np.zeros(0, np.int64), "tensor([], dtype=torch.int64)"),
    (np.float64([1]), "tensor([1.], dtype=torch.float64)"),
    (np.int32([7, -12]), "tensor([  7, -12], dtype=torch.int32)"),
    (np.ones((2, 2, 1), np.float32),
     "tensor([[[1.],\n         [1.]],\n\n        [[1.],\n         [1.]]])"),
]  # fmt: skip


@pytest.mark.parametrize(("array", "text"), FORMS)
def test_stored_forms(array, text):
    assert tensor_repr(np.asarray(array)) == text


def test_history_and_parameters_are_shown():
    x = mt.tensor([2.0], requires_grad=True)
    assert repr(x) == "tensor([2.], requires_grad=True)"
    assert repr(x * 2) == "tensor([4.], grad_fn=<MulBackward0>)"
    assert repr(mt.nn.Parameter(mt.ones(1))) == (
        "Parameter containing:\ntensor([1.], requires_grad=True)"
    )


def test_options_change_the_format():
    before = get_printoptions()
    try:
        set_printoptions(precision=2, sci_mode=False)
        assert repr(mt.tensor([1e-6, 3.14159])) == "tensor([0.00, 3.14])"
        set_printoptions(profile="full")
        assert "..." not in repr(mt.arange(2000))
        with pytest.raises(ValueError, match="unknown profile"):
            set_printoptions(profile="none")
    finally:
        set_printoptions(**before)


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 7]), max_size=4))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    wide = rng.standard_normal(shape) * 10.0 ** rng.uniform(-9, 9) * 10 ** rng.uniform(-2, 2, shape)
    wide = np.round(wide) if draw(st.booleans()) else wide
    for special in draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, -0.0]), max_size=2)):
        wide = np.where(rng.random(shape) < 0.3, special, wide)
    dtype = draw(st.sampled_from(["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?"]))
    if dtype[0] != "f":
        wide = np.nan_to_num(wide, posinf=9, neginf=-9) % 100
    with np.errstate(all="ignore"):
        return np.asarray(np.asarray(wide).astype(dtype))


@pytest.mark.skipif(
    find_spec("torch") is None, reason="compares with PyTorch: pip install torch==2.13.0"
)
@settings(max_examples=400, deadline=None, derandomize=True)
@given(array=arrays())
def test_same_text_as_pytorch(array):
    torch = import_module("torch")
    assert tensor_repr(array) == repr(torch.from_numpy(array.copy()))


@st.composite
def options(draw):
    """Arguments of set_printoptions."""
    names = ("profile", "precision", "threshold", "edgeitems", "linewidth", "sci_mode")
    values = (
        st.sampled_from(["default", "short", "full", "FULL"]), st.integers(0, 9),
        st.sampled_from([0, 1, 5, 20, 1000]), st.integers(0, 4), st.sampled_from([1, 10, 40, 80, 200]),
        st.booleans(),
    )  # fmt: skip
    return {name: draw(value) for name, value in zip(names, values) if draw(st.booleans())}


def printed(torch, array, given, kind):
    """What one library prints under these options."""
    try:
        torch.set_printoptions(profile="default")
        torch.set_printoptions(**given)
        t = torch.from_numpy(array.copy())
        if kind and array.dtype.kind == "f":
            t = torch.nn.Parameter(t) if kind == "parameter" else t.requires_grad_()
            t = t.clone() if kind == "result" else t
        return repr(t)
    finally:
        torch.set_printoptions(profile="default")


@pytest.mark.skipif(
    find_spec("torch") is None, reason="compares with PyTorch: pip install torch==2.13.0"
)
@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    array=arrays(),
    given=options(),
    kind=st.sampled_from([None, "leaf", "result", "parameter"]),
)
def test_same_text_as_pytorch_under_all_options(array, given, kind):
    torch = import_module("torch")
    assert printed(mt, array, given, kind) == printed(torch, array, given, kind)


FORMATS = """
f"{T(2.5):.2f}"
f"{T(3):5d}"
f"{T(2.5)}"
f"{T([1.0, 2.0])}"
f"{T([1.0]):.2f}"
"%.3f" % T(2.5)
"%d" % T(2)
f"{T(2.0, requires_grad=True):.2f}"
f"{T(2.0, requires_grad=True)}"
f"{T(True)}"
f"{T(2):>6}"
f"{T([1, 2])!r:>20}"
f"{torch.nn.Parameter(T(2.5))}"
f"{torch.nn.Parameter(T(2.5)):.1f}"
"{:8.3f}|{}".format(T(1.5), T(2))
str(T(2.5)), str(torch.nn.Parameter(T(1.0)))
[T(1.0), T(2)]
f"{T(2.5):x}"
f"{T(1e-8):g} {T(1e-8)}"
f"{T(float('nan'))} {T(float('-inf')):.1f}"
""".strip().splitlines()


@pytest.mark.skipif(
    find_spec("torch") is None, reason="compares with PyTorch: pip install torch==2.13.0"
)
@pytest.mark.parametrize("code", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_formats_as_pytorch(code):
    def shown(torch):
        try:
            return str(eval(code, {"torch": torch, "T": torch.tensor}))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    assert shown(mt) == shown(import_module("torch"))
