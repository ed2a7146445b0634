"""Recording what a thread does: the hooks are put in place, and taken away when it has ended.

Eager mode pays nothing, as they are there only while some thread records.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from .. import cuda, random
from ..autograd.anomaly import is_anomaly_enabled
from ..device import device as Device
from ..optim.optimizer import Optimizer, Update
from ..tensor import Tensor
from .hooks import HOOKS, NUMPY, READING, further, modules
from .session import ARRAY, Session
from .tape import HOOKED, active, recorders, refusal
from .traced import Traced

_lock, _ABSENT = threading.Lock(), object()
# What was there before, by owner and name.
_before: dict[tuple[Any, str], Any] = {}
HOOKED |= {(id(t), n): t.__dict__[n] for t, n, _ in HOOKS if n in t.__dict__}


def _replaced() -> str:
    """Which method of the package's, of those that hooks stand for, someone has replaced."""
    kinds = Tensor, Optimizer, Update, random.Generator
    for kind, name, _ in HOOKS:
        if (
            kind in kinds
            and name not in READING
            and kind.__dict__.get(name) is not HOOKED.get((id(kind), name))
        ):
            return f"{kind.__name__}.{name}"
    return ""


def _install() -> None:
    more = further()
    HOOKED.update({(id(t), n): t.__dict__[n] for t, n, _ in more if (id(t), n) not in HOOKED})
    for target, name, hook in [*HOOKS, *more, *((m, "np", NUMPY) for m in modules())]:
        if (target, name) not in _before:
            _before[target, name] = target.__dict__.get(name, _ABSENT)
            setattr(target, name, hook)


def _remove() -> None:
    for (target, name), old in reversed(_before.items()):
        if old is _ABSENT:
            delattr(target, name)
        else:
            setattr(target, name, old)
    _before.clear()


@contextlib.contextmanager
def recording(tape: Session) -> Iterator[None]:
    """Record what this thread does."""
    if cuda.is_initialized():
        # Seeded before, for a program could not do that again.
        random.default_for(Device("cuda"))
    with _lock:
        name = "" if recorders[0] else _replaced()
        _install()
        recorders[0] += 1
    active.tape = tape
    try:
        if name:
            words = f"{name} is not the package's own, which is not recorded"
            tape.give_up(refusal(words, "Put it back"))
        if is_anomaly_enabled():
            tape.give_up(refusal("anomaly detection is on", "Switch it off"))
        if tape.guards.refusal:
            tape.give_up(tape.guards.refusal)
        yield
    finally:
        active.tape, active.ended = None, ""
        tape.live = False
        tape.scalars.restore()
        for made, _ in tape.made:
            t = made()
            if t is not None and type(ARRAY.__get__(t)) is Traced:
                ARRAY.__set__(t, ARRAY.__get__(t).value)
        with _lock:
            recorders[0] -= 1
            if not recorders[0]:
                _remove()
