"""The disk cache of machine code: one file a kernel, found by the hash of all it depends on.

An entry is `name-hash.o`: a magic line, the entry symbol, a SHA-256, then the object code. The
checksum covers the entry's own name too, so one copied to another's place is not taken for it.
Nothing here can fail a caller: an entry that is missing, truncated, corrupt or foreign is None,
and a directory that cannot be written turns writing off after one warning. Writes go to a
temporary name first, so that two processes may fill the cache at once. Other files in the
directory are never touched.
"""

import contextlib
import functools
import importlib
import os
import re
import sys
import warnings
from typing import Any

MAGIC = b"microtorch kernel 2\n"
CAP_BYTES = 256 * 2**20
# Entries that are written between looks at the whole directory, the first at once.
PRUNE_EVERY = 64
# Entries, the texts beside them, and what a killed process left of either.
_OURS = re.compile(r"\.?\w+-[0-9a-f]{24}\.(o|py)(\.\d+\.[0-9a-f]{8})?")

_writable = True
_written = 0


def directory() -> str:
    """`MICROTORCH_CACHE_DIR`, else `microtorch` in the platform's user cache directory."""
    chosen = os.environ.get("MICROTORCH_CACHE_DIR")
    if chosen:
        return chosen
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        # A user without a home: nothing can be kept in a directory below the null device.
        home = os.devnull
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    return os.path.join(base, "microtorch")


def read(stem: str) -> tuple[str, bytes] | None:
    """`(symbol, object code)` of an entry, or None where there is no sound one."""
    try:
        with open(os.path.join(directory(), stem + ".o"), "rb") as file:
            content = file.read()
    except OSError:
        return None
    header, _, code = content.removeprefix(MAGIC).partition(b"\n\n")
    symbol = header.partition(b"\n")[0].decode(errors="replace")
    return (symbol, code) if content == _entry(stem, symbol, code) else None


def digest(content: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return str(_sha256()(content).hexdigest())


@functools.cache
def _sha256() -> Any:
    """Python's own function if it is there: hashlib's is OpenSSL's, which takes 3 ms to load."""
    for name in ("_sha2", "_sha256"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).sha256
    return importlib.import_module("hashlib").sha256


def _entry(stem: str, symbol: str, code: bytes) -> bytes:
    check = digest(f"{stem}\n{symbol}\n".encode() + code)
    return MAGIC + f"{symbol}\n{check}\n\n".encode() + code


def write(stem: str, symbol: str, code: bytes, text: str) -> None:
    """Keep the object code, and beside it the text that it was compiled from."""
    global _written
    _write(stem + ".py", text.encode())
    _write(stem + ".o", _entry(stem, symbol, code))
    if _written % PRUNE_EVERY == 0:
        _prune()
    _written += 1


def _write(name: str, content: bytes) -> None:
    global _writable
    if not _writable:
        return
    folder = directory()
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        os.makedirs(folder, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(content)
            os.replace(temporary, os.path.join(folder, name))
        except OSError:
            _remove(temporary)
            raise
    except OSError as error:
        _writable = False
        warnings.warn(
            f"microtorch goes on without a kernel cache: {folder!r} cannot be written ({error}). "
            "Set MICROTORCH_CACHE_DIR to a directory that can.",
            stacklevel=2,
        )


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)


def entries() -> list[tuple[str, int, float]]:
    """`(path, bytes, time of last change)` of every file of the cache."""
    found = []
    try:
        with os.scandir(directory()) as files:
            for file in files:
                if _OURS.fullmatch(file.name):
                    # Another process may delete it before it is asked for its size.
                    with contextlib.suppress(FileNotFoundError):
                        stat = file.stat()
                        found.append((file.path, stat.st_size, stat.st_mtime))
    except OSError:
        return []
    return found


def _prune() -> None:
    """Drop the oldest entries until the cache is within its cap."""
    found = entries()
    excess = sum(size for _, size, _ in found) - CAP_BYTES
    for path, size, _ in sorted(found, key=lambda entry: entry[2]):
        if excess <= 0:
            break
        _remove(path)
        excess -= size


def clear() -> None:
    """Delete every entry; code that is already loaded goes on working."""
    global _writable
    _writable = True
    for path, _, _ in entries():
        _remove(path)
