"""A warm call as one built-in function: what `kernels.entry` is told of a recorded call."""

from collections.abc import Callable
from sys import intern
from typing import Any

import numpy as np

from .. import dtypes
from ..autograd.anomaly import STATE as ANOMALY
from ..autograd.anomaly import is_anomaly_enabled
from ..device import default
from ..graph.node import LEAF, Clock, clock, mode, next_seq
from ..kernels import entry, objects
from ..tensor import Tensor
from .session import ARRAY
from .tape import recorders
from .versions import Runs

# What a call gives whose program does not fit.
MISS = object()
GRAD, _CHANGES, _ENABLED, _INFERENCE = map(intern, ("_grad", "_changes", "enabled", "inference"))
_EPOCH_AT, _LATEST_AT, _WHEN_AT, _ARRAY_AT, _NODE_AT = (
    objects.slot(kind, member) for kind, member in (
        (Clock, vars(Clock)["epoch"]), (Clock, vars(Clock)["latest_change"]),
        (Runs, vars(Runs)["when"]), (Tensor, ARRAY), (Tensor, vars(Tensor)["_node"]))
)  # fmt: skip


def builtin(
    kept: Any, instead: Callable[..., Any], versions: list[list[int]]
) -> Callable[..., Any]:
    """What does a recorded call again, or calls `instead` where it does not fit.

    It expects what a comparison of identities shows; `kept.call` decides about everything else.
    The last rows of `kept.compared` are those of the classes' versions, which are given as they
    were before all was compared, and of the epoch.
    """
    program, gradients = kept.program, kept.gradients
    program.failed[:] = [gradients.take_back]
    placed = {storage.source for storage, _ in program.numbers}
    numbers = [(storage.source, base) for storage, base in program.numbers]
    numbers += [(n, None) for n in kept.numbers if n not in placed]
    gradients.table, gradients.words = program.table, [
        program.writer.places.get(r.storage, program.writer.words) for r in kept.own
    ]  # fmt: skip
    gradients.renew()
    recording_mode = [(_ENABLED, mode.enabled), (_INFERENCE, mode.inference)][: 2 - mode.enabled]
    rows = [
        [objects.PART, id(recorders), 0, id(0)],
        *([objects.ATTRIBUTE, id(mode), id(name), id(value)] for name, value in recording_mode),
        objects.item(vars(dtypes), "_default", dtypes.get_default_dtype()),
        [objects.PART, id(default), 0, id(default[0])],
        objects.item(ANOMALY, "enabled", is_anomaly_enabled()),
        *kept.rows, *kept.guards.rows,
    ]  # fmt: skip
    known = dict.fromkeys(tuple(word) for row in rows for word in objects.direct(row))
    kept.tables = [row for row in known if row[2] == objects.DIRECT and row[0] == objects.WORD]
    kept.versions = len(versions)
    epoch = objects.WORD, id(clock) + _EPOCH_AT, 0, id(kept.epoch)
    kept.compared = np.array([*known, *versions, epoch], np.int64)
    written = any(r.storage in kept.written for r in kept.refs)
    apart = [*program.outside, *(kept.captured if written else ())]
    single, node = kept.single if kept.single and program.plain else (None, None)
    checked = program.results[0].dtype.itemsize if single and kept.tests else 0
    rest = " and ".join(kept.guards.rest)
    # Numbers are read before a run and written after it.
    turn = kept.turn.words() if kept.guards.live.writes else {}
    words = {
        **program.entry_words(kept.reached, numbers, apart, checked), **turn, "count": kept.count,
        "single": int(single is not None), "tensor_type": single or 0, "node": node,
        "apart": int(written), "ends": np.zeros(2 * len(kept.reached) + 1, np.int64),
        "rest": eval(f"lambda: {rest}", kept.guards.scope) if rest else 0,
        "follow": kept.follow if kept.changes else 0,
        "compared": kept.compared, "compared_count": len(kept.compared),
        "gradients": gradients.rows, "gradients_count": len(kept.own), "grad": GRAD,
        "stamps": [id(vars(t)) for t in kept.stamped], "stamps_count": len(kept.stamped),
        "clock": id(clock) + _LATEST_AT, "own": id(kept.runs) + _WHEN_AT, "changes": _CHANGES,
        "counter": kept.runs.counter, "written": int(bool(kept.written)), "tick": next_seq,
        "leaf": LEAF, "called": 1, "instead": instead, "array_at": _ARRAY_AT, "node_at": _NODE_AT,
        "finish": kept.finish if program.plain and single is None else kept.unpacked,
    }  # fmt: skip
    return entry.entry(words, kept)
