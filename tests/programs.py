"""Programs that run under microtorch and PyTorch, statement by statement, and what differs.

A program is a list of lines. Every line runs, also after one that raised.
"""

import warnings
from typing import Any

import numpy as np

import microtorch

TOLERANCE = {"float64": 1e-9, "float32": 2e-6}


def names_of(torch: Any) -> dict[str, Any]:
    return {"torch": torch}


def run_line(line: str, names: dict[str, Any], words: bool = False) -> str | None:
    """Run one statement; the type of what it raises, or all of its words."""
    try:
        exec(line, names)
    except Exception as error:
        return f"{type(error).__name__}: {error}" if words else type(error).__name__
    return None


def tensors(names: dict[str, Any], torch: Any) -> dict[str, Any]:
    return {k: v for k, v in names.items() if isinstance(v, torch.Tensor)}


def usable(t: Any) -> bool:
    """Whether PyTorch takes t: it refuses one of several views whose base was changed, where
    microtorch goes on with the right gradient."""
    try:
        t.is_leaf  # noqa: B018
    except RuntimeError:
        return False
    return True


def outcome(
    torch: Any, program: list[str], closely: bool = False
) -> tuple[list[Any], dict[str, Any]]:
    """What each statement raised, and what can be seen of each variable in the end.

    closely: with messages, versions, names of nodes, and variables that are no tensors.
    """
    names = names_of(torch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raised = [run_line(line, names, closely) for line in program]
        found: dict[str, Any] = {}
        for name, t in tensors(names, torch).items():
            found[name] = t.detach().numpy()
            if torch is not microtorch and not usable(t):
                continue
            found[f"{name}.requires_grad, is_leaf"] = (t.requires_grad, t.is_leaf)
            if closely:
                found[f"{name}._version"] = t._version
                found[f"{name}.grad_fn"] = t.grad_fn and type(t.grad_fn).__name__
            # PyTorch accumulates before it meets an error; here an error changes no gradient.
            # A second derivative that is nowhere may be None or zeros.
            if t.is_leaf and raised[-1] is None:
                zeros = np.zeros(t.shape) if program[-1].startswith("sum(") else None
                found[f"{name}.grad"] = zeros if t.grad is None else t.grad.detach().numpy()
    if closely:
        found |= {k: v for k, v in names.items() if isinstance(v, (bool, int, float, str, list))}
    return raised, found


def difference(program: list[str], pytorch: Any, closely: bool = False) -> str:
    """What differs between the two libraries; empty if nothing does."""
    ours, mine = outcome(microtorch, program, closely)
    theirs, others = outcome(pytorch, program, closely)
    for line, a, b in zip(program, ours, theirs, strict=True):
        # The beginning of a message, without PyTorch's hints.
        if (a and a[:100]) != (b and b[:100]):
            return f"microtorch raises {a}, PyTorch raises {b}, at\n    {line}"
    for name, value in others.items():
        if name not in mine:
            return f"{name} is not there"
        if not isinstance(value, np.ndarray) or not isinstance(mine[name], np.ndarray):
            if type(value) is not type(mine[name]) or value != mine[name]:
                return f"{name} is {mine[name]}, PyTorch has {value}"
        elif value.shape != mine[name].shape or value.dtype != mine[name].dtype:
            return f"{name} has shape {mine[name].shape}, PyTorch's {value.shape}"
        else:
            scale = TOLERANCE.get(str(value.dtype), 0) * np.abs(
                np.nan_to_num(value, posinf=0, neginf=0)
            ).max(initial=1.0)
            if not np.allclose(mine[name], value, rtol=0, atol=scale, equal_nan=True):
                return f"{name} is\n{mine[name]}\nPyTorch has\n{value}"
    return ""


def text(program: list[str]) -> str:
    """The program as it can be pasted into a file."""
    return "\n".join(["", "import microtorch as torch  # or: import torch", *program, ""])
