"""Text -> machine code, cached.

`address(name, text, signature)` gives the address of the C function `name` that `text` defines,
`function(...)` the same as a ctypes callable. Functions of the text other than `name` are
helpers, which are inlined. A first compilation goes through Numba (`frontend`) and LLVM; its
object code is kept on disk, and a later process places that in memory itself (`link`), or has
llvmlite do it, without importing Numba. Every step of the code is an IEEE operation (no fastmath,
no contraction), so the results are the same bits on every CPU; division by zero gives inf or nan,
never an error.

The text may use: the types `f32 f64 i8 i16 i32 i64 u8 u16 u32 u64` (also as casts);
`f32_at(address)` and so on, which give a pointer to index; `bits(x)` and `from_bits(i)`
(bit-casts of equal width); `sqrt floor fabs rint trunc copysign fma` (one instruction each);
`libm_cos libm_sin libm_log libm_log1p`, the C library's, of float64; `min max` of two integers;
`where(c, a, b)` (a select); `words(n)`, the address of n 64-bit words on the stack;
`f32_load(pointer, i)`, a vector of as many elements from i on as a register holds,
`f32_store(pointer, i, vector)` and `f32_splat(x)`, the same for f64, and `fma` of vectors;
`call(f, (a, ...))`, a call of the C function at address f with integer arguments and result;
`apart(address)`, the same address, with the promise that what is reached through it overlaps
nothing that is reached through another address: without it a loop over many arrays is no SIMD
code (a helper whose first line ends in `# apart` promises it of what it writes);
`f32_of(table, line, k)`, short for `f32_at(apart(table[line[k]] + line[k + 1]))`; `plus(x, y)`, a
sum of floats that may be regrouped with others, so that a loop that adds up becomes SIMD code;
`clear_flags()`, after which NumPy warns about nothing that has happened before. A line
`from vecmath32 import exp, tanh` (or 64) stands for those functions of `vecmath`.

First lines may set options: with `# interleave 3` the bodies of SIMD loops are as many vectors
side by side, which hides how long each takes; with `# unroll 150` loops of constant length are
written out only where that gives fewer instructions than 150, and not than 300. A helper whose
first line ends in `# once` is a function of its own in the machine code too: LLVM takes more than
twice as long for twice as long a function.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import frontend, link, memory, store, target, vecmath

C_TYPES = {"i64": ctypes.c_int64, "f64": ctypes.c_double, "void": None}
# What finished code may call. Anything else (Numba's run-time, the Python API) would not be there
# in a process that loads the object code without Numba.
EXTERNAL = {"feclearexcept", "memset", "memcpy", "fma", "fmaf", "log1p"}
# LLVM's options that the first lines of a text may set, and what they are otherwise.
OPTIONS = {
    "interleave": ("-force-vector-interleave", "0"),
    "unroll": ("-unroll-threshold", "300"),
}
_SETTINGS = re.compile(r"(# (interleave|unroll) \d+\n)*")

# `apart` is a call while loops are made SIMD code, as an allocation is, and nothing afterwards.
APART = """
define ptr @mt_apart(i64 %a) alwaysinline {
  %p = inttoptr i64 %a to ptr
  ret ptr %p
}
define void @mt_shown(ptr %p) alwaysinline {
  ret void
}
"""

counts = {"compiled": 0, "loaded": 0, "rejected": 0}
_lock = threading.RLock()
_addresses: dict[str, int] = {}


def address(name: str, text: str, signature: str = "void(i64,i64,i64,i64)") -> int:
    """Address of the C function `name` of `text`; compiled at most once a machine."""
    with _lock:
        # The key inside the lock too: of two back ends made at once one is freed, with its code.
        stem = f"{name}-{_key(name, text, signature)}"
        found = _addresses.get(stem)
        if found is None:
            if not _addresses:
                memory.keep_freed()
            found = _addresses[stem] = _load(stem) or _compile(stem, name, text, signature)
        return found


def known(name: str, text: str, signature: str = "void(i64,i64,i64,i64)") -> bool:
    """Whether `address` need not compile."""
    stem = f"{name}-{_key(name, text, signature)}"
    return stem in _addresses or store.read(stem) is not None


# A child must not inherit the lock from a thread that it does not have.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def function(name: str, text: str, signature: str) -> Callable[..., Any]:
    """`address` as a ctypes function; a call costs about 0.2 us and releases the GIL."""
    result, arguments = _parse(signature)
    types = [C_TYPES[a] for a in arguments]
    kind: Any = ctypes.CFUNCTYPE
    return kind(C_TYPES[result], *types)(address(name, text, signature))


def _parse(signature: str) -> tuple[str, list[str]]:
    result, _, rest = signature.partition("(")
    return result, [a.strip() for a in rest.rstrip(")").split(",") if a.strip()]


def _key(name: str, text: str, signature: str) -> str:
    parts = (_environment(), name, signature, text)
    return store.digest("\0".join(parts).encode())[:24]


@functools.cache
def _environment() -> str:
    """What decides the machine code beside the text: versions, options, our files, the CPU."""
    versions = []
    for package in ("numba", "llvmlite"):
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ImportError("microtorch needs numba to compile its kernels: pip install numba")
        with open(os.path.join(spec.submodule_search_locations[0], "_version.py"), "rb") as file:
            versions.append(store.digest(file.read()))
    texts = []
    for path in (__file__, frontend.__file__, target.__file__, vecmath.__file__):
        with open(path, "rb") as file:
            texts.append(store.digest(file.read()))
    settings = sorted(i for i in os.environ.items() if i[0].startswith("NUMBA_"))
    return repr((*texts, *versions, _cpu(), settings))


def _cpu() -> Any:
    """What LLVM makes code for; Linux knows it without importing llvmlite."""
    if link.available() and link.cpu():
        return link.cpu()
    llvm, machine = _backend()[:2]
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(), machine.triple


@functools.cache
def _backend() -> tuple[Any, Any, Any]:
    """llvmlite, a target machine for this CPU, and the engine that holds all loaded code."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="static" if target.name.startswith("x86") else "default",
        codemodel="jitdefault",
        jit=True,
    )
    empty = llvm.parse_assembly("")
    engine = llvm.create_mcjit_compiler(empty, machine)
    return llvm, machine, engine


def _install(symbol: str, code: bytes) -> int:
    placed = link.place(code, symbol)
    if placed:
        return placed
    llvm, _, engine = _backend()
    parsed = llvm.ObjectFileRef.from_data(code)
    if not parsed:
        # No object code: the engine would follow the null pointer.
        return 0
    engine.add_object_file(parsed)
    engine.finalize_object()
    return int(engine.get_function_address(symbol))


def _load(stem: str) -> int | None:
    entry = store.read(stem)
    if entry is None:
        return None
    found = _install(*entry)
    counts["loaded" if found else "rejected"] += 1
    return found or None


def _compile(stem: str, name: str, text: str, signature: str) -> int:
    """Compile, keep the object code, install it."""
    llvm, machine, _ = _backend()
    text = vecmath.complete(text)
    result, arguments = _parse(signature)
    symbol, file = "mt_" + stem.replace("-", "_"), os.path.join(store.directory(), stem + ".py")
    parts, symbol = frontend.llvm_ir(name, text, [result, *arguments], symbol, file, vector_bytes())
    module = llvm.parse_assembly("")
    for part in parts:
        module.link_in(llvm.parse_assembly(part))
    _privatize(module, symbol)
    with _set(text):
        _simplify(module)
        # Helpers go into their callers before anything becomes SIMD code.
        _run(module, 0, "loop_rotate", "instruction_combine", "jump_threading")
        _run(module, 3)
    if any(each.name == "mt_apart" for each in module.functions):
        module.link_in(llvm.parse_assembly(APART))
        _privatize(module, symbol)
        _run(module, None, "always_inliner", "instruction_combine")
    # The entry always returns 0: with that known, the wrapper needs no Python error handling.
    _run(module, None, "ipsccp", "simplify_cfg", "global_dead_code_eliminate")
    foreign = {f.name for f in module.functions if f.is_declaration} - EXTERNAL
    if foreign := {f for f in foreign if not f.startswith("llvm.")}:
        raise RuntimeError(f"kernel {name} calls {sorted(foreign)}, which a kernel must not")
    code = machine.emit_object(module)
    store.write(stem, symbol, code, text)
    counts["compiled"] += 1
    return _install(symbol, code)


def _privatize(module: Any, symbol: str) -> None:
    """Make all but the entry private: two kernels may hold helpers of one name."""
    for each in module.functions:
        if not each.is_declaration and each.name != symbol:
            each.linkage = "internal"


def _builder(level: int) -> Any:
    """What makes LLVM's passes of an optimization level."""
    llvm, machine, _ = _backend()
    options = llvm.create_pipeline_tuning_options(level)
    options.loop_vectorization = options.slp_vectorization = level == 3
    return llvm.create_pass_builder(machine, options)


def _simplify(module: Any) -> None:
    """Bring each function of a module to a simple form."""
    builder = _builder(3)
    passes = builder.getFunctionPassManager()
    for each in module.functions:
        if not each.is_declaration:
            passes.run(each, builder)


def _run(module: Any, level: int | None, *more: str) -> None:
    """Run LLVM's passes of an optimization level, None for none, then some more."""
    builder = _builder(level or 0)
    if level is None:
        passes = _backend()[0].create_new_module_pass_manager()
    else:
        passes = builder.getModulePassManager()
    for each in more:
        getattr(passes, f"add_{each}_pass")()
    passes.run(module, builder)


@contextlib.contextmanager
def _set(text: str) -> Iterator[None]:
    """Set LLVM's options for the text's first lines; nothing else is compiled meanwhile."""
    chosen = re.findall(r"# (\w+) (\d+)\n", _SETTINGS.match(text)[0])  # type: ignore[index]
    if not chosen:
        yield
        return
    with frontend.locked():
        for name, value in chosen:
            _backend()[0].set_option("", f"{OPTIONS[name][0]}={value}")
        try:
            yield
        finally:
            for name, _ in chosen:
                _backend()[0].set_option("", "=".join(OPTIONS[name]))


@functools.cache
def vector_bytes() -> int:
    """Bytes of this CPU's vector registers."""
    sets = re.findall(r"[ +](avx512f|avx2)\b", str(_cpu()))
    return 64 if "avx512f" in sets else 32 if "avx2" in sets else 16
