"""Benchmarks: `python -m bench` times workloads on microtorch and on every peer installed."""

from .compiled import COMPILED
from .workloads import WORKLOADS

EVERY = (*WORKLOADS, *COMPILED)
