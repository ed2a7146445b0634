"""`save` and `load`: checkpoints in PyTorch's zip format, readable by either library.

A file is a zip archive (`archive`) of a pickle and of the tensors' storages (`tensors`). The
pickle is written (`pickler`) and read (`unpickler`) by this package's own code: a file can name
nothing but tensors and plain containers, and loading one executes nothing that it brings.
"""

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import IO, Any

from .. import cuda
from ..device import check as check_device
from ..device import device
from ..kernels import cpu
from ..tensor import Tensor, wrap
from .archive import ALIGNMENT, ArchiveReader, ArchiveWriter, Bytes
from .pickler import Writer
from .tensors import KNOWN, Loaded, Saved
from .unpickler import Reader

__all__ = ["load", "save"]

Path = str | os.PathLike[str]
MapLocation = str | device | Mapping[str, Any] | Callable[[Any, str], Any] | None

ZIP_START = b"PK\3\4"
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number, pickled
NO_CUDA = (
    "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False. If "
    "you are running on a CPU-only machine, please use torch.load with "
    "map_location=torch.device('cpu') to map your storages to the CPU."
)

NO_SUCH_GPU = (
    "Attempting to deserialize object on CUDA device {} but torch.cuda.device_count() is 1. Please "
    "use torch.load with map_location to map your storages to an existing device."
)


def save(
    obj: Any, f: Path | IO[bytes], pickle_module: Any = None, pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
) -> None:  # fmt: skip
    """Write a checkpoint that `load` and PyTorch's `torch.load` read.

    A tensor's whole storage is saved, once for all the tensors that share it; `clone()` a small
    view of a large tensor first. A path is replaced when the file is complete: after an error
    the old file is still there.

    Args:
        obj: tensors, parameters, numbers, strings, bytes, None, dtypes, devices, sizes, and
            dicts, OrderedDicts, Counters, lists, tuples and sets of them. NumPy's numbers become
            Python's.
        f: a path, or a binary file to write to.
        pickle_module, pickle_protocol, _use_new_zipfile_serialization: accepted for
            compatibility; the file is always a zip archive.

    Raises:
        pickle.PicklingError: if obj holds anything else, such as a whole module.
        RuntimeError: if the folder does not exist, or tensors of different dtypes share memory.
        AttributeError: if f is neither a path nor a file.
    """
    if not isinstance(f, (str, os.PathLike)) and not hasattr(f, "write"):
        raise AttributeError(
            "expected 'f' to be string, path, or a file-like object with a 'write' attribute"
        )
    saved = Saved()
    pickled = Writer(saved.encode).dumps(obj)
    if isinstance(f, (str, os.PathLike)):
        _replace(os.fspath(f), lambda file: _write(file, pickled, saved))
    else:
        _write(f, pickled, saved)


def _write(file: IO[bytes], pickled: bytes, saved: Saved) -> None:
    archive = ArchiveWriter(file.write)
    archive.add("data.pkl", pickled)
    archive.add(".format_version", b"1")
    archive.add(".storage_alignment", str(ALIGNMENT).encode())
    archive.add("byteorder", sys.byteorder.encode())
    for index, storage in enumerate(saved.storages):
        archive.add(f"data/{index}", storage.data)
    archive.add("version", b"3\n")
    archive.close()
    if hasattr(file, "flush"):
        file.flush()


def _replace(path: str, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file under another name beside `path`, then give it that name."""
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise RuntimeError(f"Parent directory {folder} does not exist.")
    path = os.path.realpath(path)  # a link stays a link
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, or /dev/null
        with open(path, "wb") as file:
            write(file)
        return
    unfinished = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(unfinished, "xb") as file:
            write(file)
        if os.path.exists(path):
            os.chmod(unfinished, os.stat(path).st_mode)
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise


def load(
    f: Path | IO[bytes],
    map_location: MapLocation = None,
    pickle_module: Any = None,
    *,
    weights_only: bool = True,
    mmap: bool | None = None,
) -> Any:
    """Read what `save` or PyTorch's `torch.save` wrote.

    Nothing in the file is executed, whatever `weights_only` is: a file that names anything but
    tensors and plain containers is refused.

    Args:
        f: a path, or a binary file that can seek.
        map_location: where to put tensors, if not where they were saved from: "cpu", "cuda", a
            device, a dict from saved to wanted places, or a function of a storage and its place
            that gives a storage, or None for the default.
        pickle_module: must be None.
        weights_only: accepted for compatibility; False loads no more than True.
        mmap: whether to map the file, a path, into memory instead of reading it: tensors are
            read when they are used, changes to them stay in memory, checksums are not verified.

    Raises:
        pickle.UnpicklingError: if the file is no checkpoint, or holds more than data.
        RuntimeError: if the file is damaged, or a tensor's place is not available.
        EOFError: if there is nothing to read.
    """
    if pickle_module is not None:
        raise RuntimeError("Can not safely load weights when explicit pickle_module is specified")
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb") as file:
            return _load(file, map_location, bool(mmap))
    if mmap:
        raise ValueError("f must be a file path in order to use the mmap argument")
    try:
        f.seek(f.tell())
    except (AttributeError, OSError) as error:
        raise type(error)(
            f"{error}. You can only torch.load from a file that is seekable. Please pre-load the "
            "data into a buffer like io.BytesIO and try to load from it instead."
        ) from None
    return _load(f, map_location, False)


def _load(file: IO[bytes], map_location: MapLocation, mapped: bool) -> Any:
    _check_start(file)
    archive = ArchiveReader(file, mapped)
    if "constants.pkl" in archive:
        raise RuntimeError(
            "Cannot use ``weights_only=True`` with TorchScript archives passed to ``torch.load``: "
            "save the state_dict() of the original module."
        )
    order = archive.read("byteorder").tobytes() if "byteorder" in archive else b"little"
    if order != sys.byteorder.encode():
        raise RuntimeError(
            f"the file holds {order!r:.20}-endian numbers, and this machine's are "
            f"{sys.byteorder}-endian: load and save it with PyTorch on such a machine first."
        )
    loaded, pickled = Loaded(archive), archive.read("data.pkl").tobytes()
    found = Reader(pickled, KNOWN, loaded.storage).load()
    # What is wanted on a GPU is known by now: its tensors are made once more, there.
    if loaded.move(lambda storage, place: _placed(storage, place, map_location)):
        found = Reader(pickled, KNOWN, loaded.storage).load()
    return found


def _placed(storage: Bytes, saved_from: str, map_location: MapLocation) -> Bytes:
    """A storage where map_location wants it."""
    place: Any = saved_from
    if isinstance(map_location, Mapping):
        place = map_location.get(saved_from, saved_from)
    elif callable(map_location):
        found = map_location(wrap(storage), saved_from)
        if found is not None:
            return found._array if isinstance(found, Tensor) else storage
    elif map_location is not None:
        place = map_location
    kind, _, number = str(place).partition(":")
    if kind == "cuda":
        if not cuda.is_available():
            raise RuntimeError(NO_CUDA)
        if number not in ("", "0"):
            raise RuntimeError(NO_SUCH_GPU.format(number))
        return cpu.move(storage, check_device("cuda"))
    if kind != "cpu":
        raise RuntimeError(
            "don't know how to restore data location of torch.storage.UntypedStorage (tagged with "
            f"{place})"
        )
    return storage


def _check_start(file: IO[bytes]) -> None:
    start = file.read(len(LEGACY_START))
    if not start:
        raise EOFError("Ran out of input: the file is empty, or was read to its end already")
    if start.startswith(ZIP_START):
        return
    if start == LEGACY_START:
        raise UnpicklingError(
            "Weights only load failed. This file has the format of PyTorch before version 1.6: "
            "read it with PyTorch and save it again."
        )
    raise UnpicklingError(
        f"Weights only load failed. This is no checkpoint: a zip file was expected, and it begins "
        f"with {start!r}."
    )
