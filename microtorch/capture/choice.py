"""The program of a recording: for the CPU, or for the GPU where its arrays are there."""

from typing import Any

from . import build as on_cpu
from .ir import Recording


def build(recording: Recording) -> Any:
    """The program that does what was recorded."""
    refs = [r for op in recording.ops for r in (*op.outs, *op.ins)]
    if any(r.storage.device != "cpu" for r in (*refs, *recording.arguments, *recording.results)):
        from .cuda import Program

        return Program(recording)
    return on_cpu.build(recording)
