"""Benchmarks: `python -m bench` times workloads on microtorch and on every peer installed."""
