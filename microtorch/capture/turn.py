"""Whose turn it is to run a program of several parts."""

import threading
from typing import Any

import numpy as np


class Turn:
    """Who may run programs of several parts, between which Python does something: one at a time.

    busy: whether one runs. The thread that holds the lock may come by again meanwhile, in a handler
    of signals, say.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.busy = np.zeros(1, np.int64)

    def check(self) -> None:
        """Refuse to run inside of a run.

        Raises:
            RuntimeError: if one runs, in this thread.
        """
        with self.lock:
            if self.busy[0]:
                raise RuntimeError("a compiled program is run again by what it calls itself")

    def words(self) -> dict[str, Any]:
        """What `kernels.entry` is told of it."""
        return {"busy": self.busy, "acquire": self.lock.acquire, "release": self.lock.release}

    def __enter__(self) -> None:
        self.lock.acquire()
        try:
            self.check()
        except RuntimeError:
            self.lock.release()
            raise
        self.busy[0] = 1

    def __exit__(self, *_: Any) -> None:
        self.busy[0] = 0
        self.lock.release()
