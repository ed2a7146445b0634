"""PyTorch's zip files: `archive/data.pkl`, `archive/data/0`, ... uncompressed.

Written as PyTorchStreamWriter (caffe2/serialize/inline_container.cc, miniz) lays them out: each
record's bytes start at a multiple of 64 so that a file can be memory-mapped, and a 16- or 24-byte
descriptor follows every record that is not empty: PyTorch computes offsets from that layout
without reading the directory. A damaged or lying file is an error, never a wrong record.
"""

import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

ALIGNMENT = 64
BLOCK = 1 << 20  # bytes of a record that are held twice while it is read
ZIP64_FROM = 0xFFFFFFFF  # sizes and offsets from here on stand in 64-bit fields
UTF8_NAME, DESCRIPTOR_FOLLOWS = 0x800, 0x8
CORRUPTED = (
    "This is an internal error of the zip archive: there is a high likelihood that your checkpoint "
    "file is corrupted. This can happen if the checkpoint was not saved properly, was transferred "
    "incorrectly, or the file was modified after saving."
)
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class ArchiveWriter:
    """Writes records one after another to `write`, which need not be able to seek."""

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self._file_write = write
        self._at = 0
        self._directory: list[bytes] = []
        self._checksum = 0

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Append one record."""
        path = b"archive/" + name.encode()
        size, crc, start = len(data), zlib.crc32(data), self._at
        long = [n for n in (size, size, start) if n >= ZIP64_FROM]
        extra = struct.pack(f"<HH{len(long)}Q", 1, 8 * len(long), *long) if long else b""
        header = 30 + len(path) + len(extra) + 4
        padding = -(start + header) % ALIGNMENT
        pad = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        flags = UTF8_NAME | (DESCRIPTOR_FOLLOWS if size else 0)
        lengths = (len(path), len(extra) + len(pad))
        self._write(struct.pack("<4s5H3I2H", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, *lengths))
        self._write(path + extra + pad)
        self._write(data)
        if size:
            form = "<4sIQQ" if long else "<4sIII"
            self._write(struct.pack(form, b"PK\7\x08", crc, size, size))
        stored, begins = _field(size), _field(start)
        fields = (0, 0, flags, 0, 0, 0, crc, stored, stored, len(path), len(extra), 0, 0, 0, 0)
        entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields, begins)
        self._directory.append(entry + path + extra)
        self._checksum = zlib.crc32(path, zlib.crc32(struct.pack("<I", crc), self._checksum))

    def close(self) -> None:
        """Append the records and the directory that end an archive."""
        self.add(".data/serialization_id", f"{self._checksum:040d}".encode())
        start, count = self._at, len(self._directory)
        self._write(b"".join(self._directory))
        end, size = self._at, self._at - start
        fields = (44, 0x31E, 45, 0, 0, count, count, size, start)
        self._write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", *fields))
        self._write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        counts = (min(count, 0xFFFF),) * 2
        extent = (_field(size), _field(start))
        self._write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *counts, *extent, 0))

    def _write(self, data: bytes | memoryview) -> None:
        written = self._file_write(data)
        if written is not None and written != len(data):  # an unbuffered file may take less
            raise OSError(f"only {written} of {len(data)} bytes could be written")
        self._at += len(data)


def _field(number: int) -> int:
    """A size or offset in 32 bits; all of them set if it stands in a 64-bit field."""
    return number if number < ZIP64_FROM else 0xFFFFFFFF


class ArchiveReader:
    """Gives the records of a zip file that PyTorch wrote.

    Args:
        file: a binary file that can seek.
        mapped: map the file and give views of it, without verifying checksums. The views are
            copy-on-write: the file never changes.

    Raises:
        RuntimeError: if the file has no valid directory.
    """

    def __init__(self, file: IO[bytes], mapped: bool = False) -> None:
        self._file = file
        self._unread = file.seek(0, os.SEEK_END)
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if mapped else None
        with _damage():
            self._zip = zipfile.ZipFile(file)
        names = self._zip.namelist()
        self._folder = names[0].partition("/")[0] if names else ""

    def __contains__(self, name: str) -> bool:
        return f"{self._folder}/{name}" in self._zip.NameToInfo

    def read(self, name: str) -> Bytes:
        """The bytes of one record, in memory that may be written to.

        Raises:
            RuntimeError: if there is no such record, or it is damaged.
        """
        info = self._zip.NameToInfo.get(f"{self._folder}/{name}")
        if info is None:
            raise RuntimeError(
                f"PytorchStreamReader failed locating file {name}: file not found. {CORRUPTED}"
            )
        with _damage():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError(f"record {name} is compressed")
            self._unread -= info.file_size  # a directory may list the same bytes often
            if info.header_offset < 0 or self._unread < 0:
                raise ValueError(f"record {name} is longer than the file can hold")
            return self._copy(info) if self._map is None else self._view(info)

    def _copy(self, info: zipfile.ZipInfo) -> Bytes:
        data = np.empty(info.file_size, np.uint8)
        at = 0
        with self._zip.open(info) as record:  # which verifies the checksum at the end
            while block := record.read(BLOCK):
                data[at : at + len(block)] = np.frombuffer(block, np.uint8)
                at += len(block)
        if at != data.size:
            raise ValueError(f"record {info.filename} is too short")
        return data

    def _view(self, info: zipfile.ZipInfo) -> Bytes:
        assert self._map is not None
        lengths = struct.unpack_from("<2H", self._map, info.header_offset + 26)
        start = info.header_offset + 30 + sum(lengths)
        data = np.frombuffer(self._map, np.uint8, info.file_size, start)
        return data if start % ALIGNMENT == 0 else data.copy()


@contextmanager
def _damage() -> Iterator[None]:
    """Give what the zip reader says of a damaged file PyTorch's type and words."""
    try:
        yield
    except (
        zipfile.BadZipFile, NotImplementedError, EOFError, OSError, OverflowError, ValueError,
        struct.error,
    ) as error:  # fmt: skip
        raise RuntimeError(
            f"PytorchStreamReader failed reading zip archive: {error}. {CORRUPTED}"
        ) from error
