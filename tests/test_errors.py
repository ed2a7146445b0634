"""Errors are part of the interface: PyTorch's types and key words, and nothing half done.

`data/error_texts.txt` holds one record per case. Every case runs here against microtorch, which
must raise that type with those words and leave every tensor, module and optimizer of the scene as
it was, the random stream too. Where PyTorch is installed the same cases run under it.
"""

import copy
import importlib
import pathlib
import pickle
import traceback
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest

import microtorch

TABLE = pathlib.Path(__file__).parent / "data" / "error_texts.txt"


class Case(NamedTuple):
    """A statement that must raise `kind` with all of `words`, in this order."""

    scene: str
    statement: str
    kind: str
    words: list[str]


def read(text: str) -> list[Case]:
    """The cases of a table, whose form is described at its head."""
    cases: list[Case] = []
    scene: list[str] = []
    statement = ""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            scene = []
        elif line.startswith("given "):
            scene.append(line.removeprefix("given "))
        elif line.startswith("! "):
            kind, _, words = line[2:].partition(": ")
            cases.append(Case("\n".join(scene), statement, kind, [plain(words)]))
        elif line.startswith("+ "):
            cases[-1].words.append(plain(line[2:]))
        else:
            statement = line
    return cases


def plain(words: str) -> str:
    """The words with their escapes resolved."""
    return words.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")


CASES = read(TABLE.read_text(encoding="utf-8"))
IDS = [f"{k}: {case.statement}" for k, case in enumerate(CASES)]


def prepared(torch: Any, scene: str) -> dict[str, Any]:
    """The names of a scene, made with one of the two libraries."""
    names = {"torch": torch, "nn": torch.nn, "np": np, "copy": copy, "pickle": pickle}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(scene, names)
    return names


def raised(statement: str, names: dict[str, Any]) -> Exception | None:
    """What a statement raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(statement, names)
    except Exception as error:
        return error
    return None


def check(error: Exception | None, case: Case) -> None:
    """Demand the type and the words of a case."""
    assert error is not None, "nothing was raised"
    assert type(error).__name__ == case.kind, repr(error)
    text, place = str(error), 0
    for words in case.words:
        found = text.find(words, place)
        assert found >= 0, f"{words!r} is not in {text[place:]!r}"
        place = found + len(words)


def state(names: dict[str, Any]) -> dict[str, Any]:
    """Everything that a refused call could have changed."""
    found: dict[str, Any] = {
        "stream": microtorch.get_rng_state().tolist(),
        "grad mode": microtorch.is_grad_enabled(),
        "default dtype": microtorch.get_default_dtype(),
    }
    for name, value in names.items():
        if isinstance(value, microtorch.Tensor):
            found[name] = tensor_state(value)
        elif isinstance(value, microtorch.nn.Module):
            found[name] = (
                repr(value),
                {key: tensor_state(t) for key, t in value.state_dict(keep_vars=True).items()},
            )
        elif isinstance(value, microtorch.optim.Optimizer):
            found[name] = repr(value), repr(value.state_dict())
    return found


def tensor_state(t: Any) -> tuple[Any, ...]:
    """Elements, version, place in the graph and gradient of a tensor."""
    grad = None if t._grad is None else t._grad._array.tolist()
    return (
        t.dtype, tuple(t.shape), t._array.tolist(), t._version, t.requires_grad, t.is_leaf,
        id(t.grad_fn), grad,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_refuses_with_pytorchs_words_and_changes_nothing(case):
    names = prepared(microtorch, case.scene)
    before = state(names)
    check(raised(case.statement, names), case)
    assert state(names) == before


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_pytorch_refuses_the_same_with_the_same_words(case):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")
    check(raised(case.statement, prepared(torch, case.scene)), case)


def test_reader_notices_a_wrong_type_and_wrong_words():
    case = Case("", "", "ValueError", ["first", "second"])
    check(ValueError("first then second"), case)
    for error in (None, TypeError("first second"), ValueError("second first")):
        with pytest.raises(AssertionError):
            check(error, case)


@pytest.mark.parametrize(
    ("owner", "name", "closest"),
    [
        ("microtorch", "zeroes", "zeros"),
        ("microtorch", "sofmax", "softmax"),
        ("microtorch.nn", "Linaer", "Linear"),
        ("microtorch.nn", "Relu", "ReLU"),
        ("microtorch.nn.functional", "crossentropy", "cross_entropy"),
        ("microtorch.nn.init", "xavier_unifrom_", "xavier_uniform_"),
        ("microtorch.optim", "Adan", "Adam"),
        ("microtorch.autograd", "gradd", "grad"),
        ("microtorch.cuda", "is_availabel", "is_available"),
        ("microtorch.random", "manual_sed", "manual_seed"),
        ("microtorch", "Tensor.reshap", "reshape"),
        ("microtorch.linalg", "sovle", "solve"),
        ("microtorch.nn.utils", "clip_grad_nrm_", "clip_grad_norm_"),
        ("microtorch.optim.lr_scheduler", "StepLr", "StepLR"),
        ("microtorch", "wholly_unknown_xyz", None),
        ("microtorch", "foo", None),
        ("microtorch", "Tensor.foo", None),
    ],
)
def test_unknown_names_are_answered_with_the_closest(owner, name, closest):
    place = importlib.import_module(owner)
    if name.startswith("Tensor."):
        place, name = microtorch.ones(2), name.partition(".")[2]
    page = 'See "What differs from PyTorch" in the README.'
    hint = f"Did you mean '{closest}'?" if closest else page
    with pytest.raises(AttributeError) as caught:
        getattr(place, name)
    assert str(caught.value).endswith(f"has no attribute '{name}'. {hint}")
    assert not hasattr(place, name)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("torch.stft", "torch.stft"),
        ("torch.ones(2).lgamma", "torch.Tensor.lgamma"),
        ("torch.nn.Conv3d", "torch.nn.Conv3d"),
        ("torch.nn.functional.ctc_loss", "torch.nn.functional.ctc_loss"),
        ("torch.optim.Muon", "torch.optim.Muon"),
    ],
)
def test_a_name_that_pytorch_has_is_known_to_be_missing(code, name):
    with pytest.raises(AttributeError, match=f": microtorch has no {name}. See "):
        eval(code, {"torch": microtorch})


def test_the_page_of_differences_exists():
    readme = pathlib.Path(__file__).parent.parent / "README.md"
    assert "\n## What differs from PyTorch\n" in readme.read_text(encoding="utf-8")


TENSORS_OF_PYTORCH = """
x + t
t * x
x.add_(t)
x.copy_(t)
torch.exp(t)
torch.matmul(x, t)
torch.cat([x, t])
torch.where(x > 0, t, x)
torch.nn.Linear(2, 2)(t)
torch.nn.Parameter(t)
torch.nn.MSELoss()(x, t)
torch.nn.functional.cross_entropy(t, t)
torch.nn.functional.embedding(t, x)
torch.nn.functional.dropout(t)
torch.optim.SGD([t])
x[t]
x.sum().backward(t)
setattr(x, "grad", t)
""".strip().splitlines()


@pytest.mark.parametrize("code", TENSORS_OF_PYTORCH)
def test_a_tensor_of_pytorch_is_refused_with_what_to_do(code):
    pytorch = pytest.importorskip("torch")
    names = {"torch": microtorch, "x": microtorch.ones(2, 2), "t": pytorch.ones(2, 2)}
    with pytest.raises(TypeError, match=r"PyTorch's Tensor \(microtorch.asarray"):
        eval(code, names)


@pytest.mark.parametrize("code", ["torch.relo", "torch.nn.Lineer", "x.requires_grat", "x.flaten"])
def test_a_traceback_has_one_suggestion(code):
    names = {"torch": microtorch, "x": microtorch.ones(2)}
    with pytest.raises(AttributeError) as raised:
        eval(code, names)
    text = "".join(traceback.format_exception(raised.value))
    assert text.count("Did you mean") == 1


OWN_WORDS = """
nn.Conv2d(3, 4) | Conv2d.__init__() missing 1 required positional argument: 'kernel_size'
nn.BatchNorm2d() | BatchNorm2d.__init__() missing 1 required positional argument: 'num_features'
nn.Softmax(1, 2) | Softmax.__init__() takes from 1 to 2 positional arguments but 3 were given
nn.init.constant_(3, 1) | constant_(): argument 'tensor' (position 1) must be Tensor, not int
nn.init.xavier_uniform_(nn.Linear(2, 2)) | xavier_uniform_(): argument 'tensor' (position 1)
nn.LSTM(2, 3)(torch.ones(4, 5, 2), torch.ones(1, 5, 3)) | must be tuple of Tensors (h, c), not
nn.LSTMCell(2, 3)(torch.ones(5, 2), torch.ones(5, 3)) | must be tuple of Tensors (h, c), not
nn.GRU(2, 3)(torch.ones(4, 5, 2), (torch.ones(1, 5, 3),)) | 'hx' (position 2) must be Tensor, not
torch.register("f", "x", lambda x: x) | register(): the formula must be a string
""".strip().splitlines()


@pytest.mark.parametrize("case", OWN_WORDS)
def test_messages_name_what_the_user_named(case):
    code, words = case.split(" | ")
    with pytest.raises(TypeError) as caught:
        eval(code, {"torch": microtorch, "nn": microtorch.nn})
    assert words in str(caught.value)


@pytest.mark.parametrize("shape, place", [((3, 4), 3), ((3, 4), -4), ((0, 4), 0)])
def test_indices_out_of_range(shape, place):
    for x in (microtorch.ones(*shape), microtorch.ones(*shape[::-1]).T):
        with pytest.raises(IndexError) as caught:
            x[microtorch.tensor([place])]
        words = f"index {place} is out of bounds for dimension 0 with size {shape[0]}"
        assert str(caught.value) == words


def test_a_state_of_pytorch_is_refused_with_what_to_do():
    pytorch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match=r"PyTorch's Tensor \(microtorch.asarray"):
        microtorch.nn.Linear(1, 1).load_state_dict(pytorch.nn.Linear(1, 1).state_dict())
