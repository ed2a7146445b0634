"""Object code -> memory that runs, without LLVM: importing llvmlite takes longer than training.

Kernels are alike: code and constants that refer to each other, and to a few functions of the C
library, by absolute 64-bit addresses. Placing them is all that is left to do: the sections of the
ELF file one after another into new memory, then the addresses into the code. Anything else (another
system, another kind of reference) is left to LLVM's own linker.

Layouts: System V ABI, "Object files", and its AMD64 supplement, "Relocation".
"""

import ctypes
import functools
import mmap
import os
import struct
import sys

SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = struct.Struct("<QIIq")
# Of the file's header: where the section table is, bytes of a line of it, lines.
_HEADER = (("<Q", 40), ("<H", 58), ("<H", 60))
CODE_OR_DATA, SYMBOLS, RELOCATIONS = 1, 2, 4  # SHT_PROGBITS, SHT_SYMTAB, SHT_RELA
ALLOCATED, ABSOLUTE_64 = 2, 1  # SHF_ALLOC, R_X86_64_64
READ, EXECUTE = 1, 4  # PROT_READ, PROT_EXEC


@functools.cache
def available() -> bool:
    """Whether object code here is of the kind that `place` knows: ELF for 64-bit x86."""
    return sys.platform == "linux" and os.uname().machine == "x86_64" and sys.maxsize > 1 << 32


def cpu() -> str:
    """The model and the instruction sets of this CPU, as Linux tells them; "" where it does not."""
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read(1 << 14).partition("\n\n")[0].splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in first if line.startswith(("model", "flags")))


def place(code: bytes, symbol: str) -> int:
    """The address of a function of an object file in new memory; 0 where LLVM must do it."""
    if not available() or code[:4] != b"\x7fELF":
        return 0
    try:
        return _place(code, symbol)
    except (struct.error, IndexError, ValueError):
        # Cut off; LLVM refuses it.
        return 0


def _place(code: bytes, symbol: str) -> int:
    table, size, count = (struct.unpack_from(f, code, at)[0] for f, at in _HEADER)
    sections = [SECTION.unpack_from(code, table + size * k) for k in range(count)]
    starts, end = {}, 0
    for k, (_, kind, flags, _, _, length, _, _, align, _) in enumerate(sections):
        if kind == CODE_OR_DATA and flags & ALLOCATED and length:
            starts[k] = -(-end // align) * align
            end = starts[k] + length
    memory = mmap.mmap(-1, end)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for k, start in starts.items():
        offset, length = sections[k][4:6]
        memory[start : start + length] = code[offset : offset + length]
    addresses = []
    entry = 0
    for _, kind, _, _, offset, length, names, *_ in sections:
        if kind != SYMBOLS:
            continue
        for name, _, _, section, value, _ in SYMBOL.iter_unpack(code[offset : offset + length]):
            at = sections[names][4] + name
            text = code[at : code.index(b"\0", at)].decode()
            if section in starts:
                addresses.append(base + starts[section] + value)
            else:
                addresses.append(_of_library(text) if text and not section else 0)
            if text == symbol:
                entry = addresses[-1]
    for _, kind, _, _, offset, length, _, target, _, _ in sections:
        if kind == RELOCATIONS and target in starts:
            for at, how, number, add in RELOCATION.iter_unpack(code[offset : offset + length]):
                if how != ABSOLUTE_64 or not addresses[number]:
                    return 0
                struct.pack_into("<Q", memory, starts[target] + at, addresses[number] + add)
    return entry if _executable(memory) else 0


def _executable(memory: mmap.mmap) -> int:
    """The address of memory that may be executed from now on; 0 where the system forbids it."""
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _library().mprotect(ctypes.c_void_p(base), ctypes.c_size_t(len(memory)), READ | EXECUTE):
        return 0
    keep(memory)
    return base


def keep(value: object) -> None:
    """Have something outlive the interpreter: at its exit other threads may be in machine code."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


@functools.cache
def _library() -> ctypes.CDLL:
    """The C library."""
    return ctypes.CDLL(None)


@functools.cache
def _of_library(name: str) -> int:
    """The address of a function of the C library, or 0."""
    try:
        return ctypes.cast(getattr(_library(), name), ctypes.c_void_p).value or 0
    except AttributeError:
        return 0
