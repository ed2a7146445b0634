"""Error texts that many functions share, in PyTorch's words."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

DIFFERENT_DEVICES = (
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
)
FUNCTION_VIEW = (
    "Output 0 of {op} is a view and is being modified inplace. This view was created inside "
    "a custom Function (or because an input was returned as-is) and the autograd logic to handle "
    "view+inplace would override the custom backward associated with the custom Function, leading "
    "to incorrect gradients. This behavior is forbidden. You can fix this by cloning the output of "
    "the custom Function."
)
ONE_OF_SEVERAL_VIEWS = (
    "Output {number} of {op} is a view and is being modified inplace. This view is the output of a "
    "function that returns multiple views. Such functions do not allow the output views to be "
    "modified inplace. You should replace the inplace operation by an out-of-place one."
)
_NO_GRAD_VIEW = (
    "A view was created in no_grad mode and {happened} modified inplace with grad mode enabled. "
    "Given that this use case is ambiguous and error-prone, it is forbidden. You can clarify your "
    "code by moving both the view and the inplace either both inside the no_grad block (if you "
    "don't want the inplace to be tracked) or both outside (if you want the inplace to be tracked)."
)
NO_GRAD_VIEW = _NO_GRAD_VIEW.format(happened="is being")
BASE_OF_NO_GRAD_VIEW = _NO_GRAD_VIEW.format(
    happened="its base or another view of its base has been"
)


class OutOfMemoryError(RuntimeError):
    """Memory of the GPU is used up; everything that was there before is as it was."""


def argument_error(
    function: str, argument: str, position: int, expected: str, value: Any
) -> TypeError:
    """The TypeError for an argument of the wrong type."""
    return TypeError(
        f"{function}(): argument '{argument}' (position {position}) must be {expected}, "
        f"not {kind_of(value)}"
    )


def combination_error(function: str, *values: Any, expected: str = "") -> TypeError:
    """The TypeError for arguments that fit none of a function's signatures."""
    got = ", ".join(kind_of(v) for v in values)
    wanted = f", but expected {expected}" if expected else ""
    return TypeError(
        f"{function}() received an invalid combination of arguments - got ({got}){wanted}"
    )


def kind_of(value: Any) -> str:
    """The type of a value as PyTorch's messages name it."""
    kind = type(value)
    if kind.__module__.partition(".")[0] == "torch":
        return f"PyTorch's {kind.__name__} (microtorch.asarray makes a tensor of microtorch of it)"
    return f"numpy.{kind.__name__}" if kind.__module__ == "numpy" else kind.__name__


def refuse_foreign(value: Any) -> None:
    """Refuse a tensor of PyTorch.

    Raises:
        TypeError: which says how to convert it.
    """
    if type(value).__module__.partition(".")[0] == "torch":
        raise TypeError(f"expected a Tensor, but got {kind_of(value)}")


def unknown_name(owner: str, name: str, known: Iterable[str]) -> AttributeError:
    """The AttributeError for a name that does not exist: says whether PyTorch has it, else which
    name is close."""
    text = f"{owner} has no attribute '{name}'"
    if name.startswith("_"):
        return AttributeError(text)
    from .missing import NAMES

    where = "torch.Tensor" if "Tensor" in owner else owner[8:-1].replace("microtorch", "torch")
    close = _closest(name, [k for k in known if k[0] != "_"])
    if name in NAMES.get(where, ()):
        text += f": microtorch has no {where}.{name}. {_PAGE}"
    else:
        text += f". Did you mean '{close}'?" if close else f". {_PAGE}"
    # With an object of its own, so that a traceback does not look for a name once more.
    return AttributeError(text, name=name, obj=None)


_PAGE = 'See "What differs from PyTorch" in the README.'


def _closest(name: str, names: list[str]) -> str | None:
    """The name that is really close, whatever its capitals: nearly the same letters, or the same
    beginning and most letters."""
    import difflib

    lower = {k.lower(): k for k in names}
    for one, others in ((name, names), (name.lower(), list(lower))):
        for found in difflib.get_close_matches(one, others, 3, 0.7):
            ratio = difflib.SequenceMatcher(None, found, one).ratio()
            if ratio >= 0.8 or (found[:3] == one[:3] and ratio >= 0.7):
                return lower.get(found.lower(), found) if others is not names else found
    return None


def unknown_names(module: str, submodules: tuple[str, ...] = ()) -> Callable[[str], Any]:
    """The `__getattr__` of a module: submodules are loaded at first use, and what there is not is
    answered with the closest name that there is."""

    def getattr_(name: str) -> Any:
        if name in submodules:
            import importlib

            return importlib.import_module("." + name, module)
        raise unknown_name(f"module '{module}'", name, vars(sys.modules[module]))

    return getattr_


def broadcast_error(a: tuple[int, ...], b: tuple[int, ...]) -> RuntimeError:
    """The RuntimeError for shapes that do not broadcast."""
    for back in range(1, min(len(a), len(b)) + 1):
        if a[-back] != b[-back] and 1 not in (a[-back], b[-back]):
            return RuntimeError(
                f"The size of tensor a ({a[-back]}) must match the size of tensor b ({b[-back]}) "
                f"at non-singleton dimension {max(len(a), len(b)) - back}"
            )
    return RuntimeError(f"shapes {list(a)} and {list(b)} cannot be broadcast")


def mismatched(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two shapes do not broadcast."""
    return any(m != n and 1 not in (m, n) for m, n in zip(reversed(a), reversed(b), strict=False))


class _LinAlgError(RuntimeError):
    """A matrix that an algorithm cannot handle; `torch.linalg.LinAlgError`."""


LinAlgError = _LinAlgError
