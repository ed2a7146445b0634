"""What a user can ask of the kernels: the cache and the number of threads."""

from typing import Any

from . import jit, store


def cache_info() -> dict[str, Any]:
    """The cache: its directory, files and bytes, and what this process compiled and loaded."""
    found = store.entries()
    return {
        "directory": store.directory(),
        "kernels": sum(path.endswith(".o") for path, _, _ in found),
        "bytes": sum(size for _, size, _ in found),
        "cap_bytes": store.CAP_BYTES,
        **jit.counts,
    }


def clear_cache() -> None:
    """Delete all cached machine code; what is loaded goes on working."""
    store.clear()
