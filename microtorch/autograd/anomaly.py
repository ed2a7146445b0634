"""Anomaly detection: which forward call a failing backward belongs to.

Nothing asks whether the mode is on. Switching it on puts other functions in the places of two:
`next_seq`, which every new node calls, then notes where it was called from; the engine's `run`
then watches each op of the graph.
"""

import sys
import traceback
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..graph import engine, node
from ..graph.node import Node
from ..tensor import Tensor

# Traces of this many nodes are kept at most, the newest.
LIMIT = 1 << 15
_SHOWN = "{} detected in {}. Traceback of forward call that caused the error:\n{}"
_UNKNOWN = (
    "Error detected in {}. No forward pass information available. Enable detect anomaly during "
    "forward pass for more information."
)

# Whether the mode is on, and whether nan is an error.
STATE = {"enabled": False, "check_nan": True}
_traces: dict[int, list[tuple[types.CodeType, int]]] = {}
_next_seq, _run = node.next_seq, engine.run


def _traced_next_seq() -> int:
    """The next number, with a note of where it was asked for."""
    seq = _next_seq()
    frame: Any = sys._getframe(1)
    trace = []
    while frame is not None:
        trace.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    _traces[seq] = trace
    if len(_traces) > LIMIT:
        _traces.pop(next(iter(_traces)), None)
    return seq


def _text(seq: int) -> str | None:
    """The traceback of the call that made a node, without this package's own lines."""
    trace = _traces.get(seq)
    if trace is None:
        return None
    own = __name__.partition(".")[0]
    lines = [
        traceback.FrameSummary(code.co_filename, line, code.co_name)
        for code, line in reversed(trace)
        if f"/{own}/" not in code.co_filename.replace("\\", "/")
    ]
    return "".join(traceback.format_list(lines))


class _Watched:
    """An op that reports errors and nan."""

    def __init__(self, op: Any) -> None:
        self.op = op
        self.kind = getattr(op, "kind", None)
        self.saves_result = getattr(op, "saves_result", False)
        self.hooks, self.keep = getattr(op, "hooks", None), getattr(op, "keep", None)

    def backward(self, node: Node, g: Any) -> Any:
        """What the op gives."""
        return self._checked(self.op.backward, node, g)

    def differentiate(self, node: Node, g: Any) -> Any:
        """What the op gives."""
        return self._checked(self.op.differentiate, node, g)

    def _checked(self, function: Callable[..., Any], node: Node, g: Any) -> Any:
        try:
            found = function(node, g)
        except Exception:
            _report(node)
            raise
        for k, d in enumerate(found if STATE["check_nan"] else ()):
            array = d._array if isinstance(d, Tensor) else d
            if isinstance(array, (np.ndarray, np.floating)) and np.isnan(array).any():
                _report(node)
                raise RuntimeError(
                    f"Function '{node.name()}' returned nan values in its {k}th output."
                )
        return found


def _report(node: Node) -> None:
    text = _text(node.seq)
    name = node.name()
    shown = _UNKNOWN.format(name) if text is None else _SHOWN.format("Error", name, text)
    warnings.warn(shown, stacklevel=5)


def _watched_run(
    roots: dict[Any, Any], arithmetic: Any, keep: bool, *args: Any, **kwargs: Any
) -> Any:
    """The engine's run, with every op of the graph watched while it lasts."""
    nodes, _ = engine.topological(roots)
    ops = [(n, n.op) for n in nodes]
    for n, op in ops:
        n.op = _Watched(op)
    try:
        found = _run(roots, arithmetic, keep, *args, **kwargs)
    finally:
        for n, op in ops:
            n.op = op
    if not keep:
        for n in nodes:
            _traces.pop(n.seq, None)
    return found


def _exchange(name: str, before: Any, after: Any) -> None:
    """Put one function in the place of another in the modules of the package that use it."""
    own = __name__.partition(".")[0]
    for key, module in list(sys.modules.items()):
        # graph.node numbers in-place changes too, which are no nodes.
        if not key.startswith(own + ".") or key in (__name__, node.__name__):
            continue
        if getattr(module, "__dict__", {}).get(name) is before:
            setattr(module, name, after)


def set_anomaly_enabled(enabled: bool, check_nan: bool = True) -> None:
    """Switch the mode on or off, in all threads."""
    if enabled != STATE["enabled"]:
        pairs = [("next_seq", _next_seq, _traced_next_seq), ("run", _run, _watched_run)]
        for name, plain, special in pairs:
            _exchange(name, *((plain, special) if enabled else (special, plain)))
    if not enabled:
        _traces.clear()
    STATE.update(enabled=bool(enabled), check_nan=bool(check_nan))


def is_anomaly_enabled() -> bool:
    """Whether anomaly detection is on."""
    return STATE["enabled"]


def is_anomaly_check_nan_enabled() -> bool:
    """Whether anomaly detection takes nan for an error."""
    return STATE["check_nan"]


class set_detect_anomaly:
    """Switch anomaly detection on or off, at once; as a context manager, until its end.

    A backward that raises, or gives nan where check_nan is set, is then reported with the
    traceback of the forward call that it belongs to.
    """

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = (STATE["enabled"], STATE["check_nan"])
        set_anomaly_enabled(mode, check_nan)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        set_anomaly_enabled(*self._before)


class detect_anomaly:
    """Anomaly detection inside a `with` block."""

    def __init__(self, check_nan: bool = True) -> None:
        self._before = (STATE["enabled"], STATE["check_nan"])
        self._check_nan = check_nan
        warnings.warn(
            "Anomaly Detection has been enabled. This mode will increase the runtime and should "
            "only be enabled for debugging.",
            stacklevel=2,
        )

    def __enter__(self) -> None:
        set_anomaly_enabled(True, self._check_nan)

    def __exit__(self, *_: object) -> None:
        set_anomaly_enabled(*self._before)
