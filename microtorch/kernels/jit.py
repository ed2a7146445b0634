"""Text -> machine code, cached: the only module that names numba or llvmlite.

`address(name, text, signature)` gives the address of the C function `name` that `text` defines,
`function(...)` the same as a ctypes callable. Functions of the text other than `name` are
helpers and are always inlined. A first compilation goes through Numba; its object code is kept
on disk, and a later process places that in memory itself (`link`), or has llvmlite do it, without
importing Numba. Every step of the code is an IEEE operation (no fastmath, no contraction), so
the results are the same bits on every CPU; division by zero gives inf or nan, never an error.

The text may use: the types `f32 f64 i8 i16 i32 i64 u8 u16 u32 u64` (also as casts);
`f32_at(address)` and so on, which give a pointer to index; `bits(x)` and `from_bits(i)`
(bit-casts of equal width); `sqrt floor fabs rint trunc copysign fma` (one instruction each);
`where(c, a, b)` (a select); `words(n)`, the address of n 64-bit words on the stack;
`f32_load(pointer, i)`, a vector of as many elements from i on as a register holds,
`f32_store(pointer, i, vector)` and `f32_splat(x)`, the same for f64, and `fma` of vectors;
`call(f, (a, ...))`, a call of the C function at address f with integer arguments and result;
`apart(address)`, the same address, with the promise that what is reached through it overlaps
nothing that is reached through another address: without it a loop over many arrays is no SIMD
code; `plus(x, y)`, a sum of floats that may be regrouped with others, so that a loop that adds
up becomes SIMD code; `feclearexcept(63)`, which clears the flags that NumPy would warn about. A
line `from vecmath32 import exp, tanh` (or 64) stands for those functions of `vecmath`. With the
first line `# interleave 3` the bodies of SIMD loops are as many vectors side by side, which hides
how long each takes.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import link, memory, store, vecmath

C_TYPES = {"i64": ctypes.c_int64, "f64": ctypes.c_double, "void": None}
# Every option of the compiler. numpy: x / 0 is inf, without the branch that blocks SIMD.
OPTIONS: dict[str, Any] = {"error_model": "numpy"}
# Helpers stand in the entry's code and need no wrappers of their own.
INLINED: dict[str, Any] = {
    **OPTIONS,
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
# What finished code may call. Anything else (Numba's run-time, the Python API) would not be there
# in a process that loads the object code without Numba.
EXTERNAL = {"feclearexcept", "memset", "memcpy", "fma", "fmaf", "log1p"}

# `apart` is a call while loops are made SIMD code, as an allocation is, and nothing afterwards.
APART = """
define internal ptr @mt_apart(i64 %a) alwaysinline {
  %p = inttoptr i64 %a to ptr
  ret ptr %p
}
define internal void @mt_shown(ptr %p) alwaysinline {
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


def known(name: str, text: str, signature: str) -> bool:
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
    for path in (__file__, vecmath.__file__):
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
    """Compile with Numba, keep the object code, install it."""
    llvm, machine, _ = _backend()
    text = vecmath.complete(text)
    ir, symbol = _llvm_ir(stem, name, text, signature)
    if "@mt_apart" in ir:
        ir = re.sub(r"^declare .*@mt_(apart|shown)\(.*$", "", ir, flags=re.MULTILINE) + APART
    module = llvm.parse_assembly(ir)
    for each in module.functions:
        if not each.is_declaration and each.name != symbol:
            # Two kernels may hold helpers of one name; left public, LLVM would merge them.
            each.linkage = "internal"
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(0))
    passes = llvm.create_new_module_pass_manager()
    if "@mt_apart" in ir:
        passes.add_always_inliner_pass()
        passes.add_instruction_combine_pass()
    # The entry always returns 0: with that known, the wrapper needs no Python error handling.
    passes.add_ipsccp_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)
    foreign = {f.name for f in module.functions if f.is_declaration} - EXTERNAL
    if foreign := {f for f in foreign if not f.startswith("llvm.")}:
        raise RuntimeError(f"kernel {name} calls {sorted(foreign)}, which a kernel must not")
    code = machine.emit_object(module)
    store.write(stem, symbol, code, text)
    counts["compiled"] += 1
    return _install(symbol, code)


def _llvm_ir(stem: str, name: str, text: str, signature: str) -> tuple[str, str]:
    """Optimized LLVM IR of the text, and the symbol of its entry function.

    The hash is in the entry's name as well, and with it in its symbol.
    """
    numba = _numba()
    symbol_name = "mt_" + stem.replace("-", "_")
    scope: dict[str, Any] = {**_vocabulary(), "__name__": "microtorch_" + symbol_name}
    exec(compile(text, os.path.join(store.directory(), stem + ".py"), "exec"), scope)
    for helper in re.findall(r"^def (\w+)\(", text, re.MULTILINE):
        if helper != name:
            scope[helper] = numba.njit(**INLINED)(scope[helper])
    result, arguments = _parse(signature)
    types = {"void": numba.types.void, "i64": numba.types.int64, "f64": numba.types.float64}
    entry = scope[name]
    entry.__name__ = entry.__qualname__ = symbol_name
    with _interleaved(text):
        kernel = numba.cfunc(types[result](*[types[a] for a in arguments]), **OPTIONS)(entry)
    return kernel.inspect_llvm(), kernel.native_name


@functools.cache
def _numba() -> Any:
    """Numba, which imports all of SciPy's linear algebra to see whether it is there: 0.2 s."""
    import numba

    name = "numba.np.arraymath"
    if name not in sys.modules and importlib.util.find_spec("scipy"):
        linalg: Any = importlib.import_module("numba.np.linalg")
        look = linalg.ensure_blas
        linalg.ensure_blas = lambda: None
        try:
            vars(importlib.import_module(name))["ensure_blas"] = look
        finally:
            linalg.ensure_blas = look
    return numba


@contextlib.contextmanager
def _interleaved(text: str) -> Iterator[None]:
    """Set LLVM's option for the text's first line; nothing else is compiled meanwhile."""
    found = re.match(r"# interleave (\d+)\n", text)
    if not found:
        yield
        return
    from numba.core.compiler_lock import global_compiler_lock

    set_option = _backend()[0].set_option
    with global_compiler_lock:
        set_option("", f"-force-vector-interleave={found[1]}")
        try:
            yield
        finally:
            set_option("", "-force-vector-interleave=0")


@functools.cache
def vector_bytes() -> int:
    """Bytes of this CPU's vector registers."""
    sets = re.findall(r"[ +](avx512f|avx2)\b", str(_cpu()))
    return 64 if "avx512f" in sets else 32 if "avx2" in sets else 16


def _vectors(element: Any) -> tuple[Any, Any, Any]:
    """load, store and splat of vectors of a float type."""
    import llvmlite.ir as ir
    from numba import types
    from numba.extending import intrinsic, models, register_model

    size = element.bitwidth // 8
    name = f"f{element.bitwidth}"
    lanes = vector_bytes() // size
    kind = ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), lanes)
    # With it llvmlite names the instructions on vectors.
    kind.intrinsic_name = f"v{lanes}{name}"

    class Vector(types.Type):  # type: ignore[misc]
        pass

    @register_model(Vector)
    class Model(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, vector: Any) -> None:
            super().__init__(manager, vector, kind)

    vector = Vector(name=f"{name}x{lanes}")

    def place(builder: Any, args: Any) -> Any:
        return builder.bitcast(builder.gep(args[0], [args[1]]), kind.as_pointer())

    @intrinsic
    def load(typing: Any, pointer: Any, i: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.load(place(builder, args), align=size)

        return vector(pointer, types.int64), code

    @intrinsic
    def store(typing: Any, pointer: Any, i: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            builder.store(args[2], place(builder, args), align=size)
            return context.get_dummy_value()

        return types.void(pointer, types.int64, vector), code

    @intrinsic
    def splat(typing: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            one = builder.insert_element(
                ir.Constant(kind, ir.Undefined), args[0], ir.IntType(32)(0)
            )
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), mask)

        return vector(element), code

    return load, store, splat


@functools.cache
def _vocabulary() -> dict[str, Any]:
    """The names that kernel text may use, as Numba types and intrinsics."""
    import llvmlite.binding as llvm
    import llvmlite.ir as ir
    from numba import types
    from numba.extending import intrinsic

    names = "f32 f64 i8 i16 i32 i64 u8 u16 u32 u64".split()
    full = {"f": "float", "i": "int", "u": "uint"}
    scope: dict[str, Any] = {n: getattr(types, full[n[0]] + n[1:]) for n in names}
    # The signed twin of each float type, for bit-casts.
    twins = {types.float32: types.int32, types.float64: types.int64}
    floats = {twin: float_type for float_type, twin in twins.items()}

    def pointer_to(element: Any) -> Any:
        @intrinsic
        def at(typing: Any, place: Any) -> Any:
            def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                wide = context.cast(builder, args[0], sig.args[0], types.int64)
                return builder.inttoptr(wide, context.get_value_type(sig.return_type))

            return types.CPointer(element)(place), code

        return at

    def bit_cast(twin_of: dict[Any, Any]) -> Any:
        @intrinsic
        def cast(typing: Any, x: Any) -> Any:
            def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                return builder.bitcast(args[0], context.get_value_type(sig.return_type))

            return twin_of[x](x), code

        return cast

    def instruction(name: str, arity: int) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            native = context.get_value_type(sig.return_type)
            args = [context.cast(builder, a, t, sig.return_type) for a, t in zip(args, sig.args)]
            kind = ir.FunctionType(native, [native] * arity)
            return builder.call(builder.module.declare_intrinsic(name, [native], kind), args)

        if arity == 1:
            return intrinsic(lambda typing, x: (x(x), emit))
        if arity == 2:
            return intrinsic(lambda typing, x, y: (x(x, y), emit))
        return intrinsic(lambda typing, x, y, z: (x(x, y, z), emit))

    @intrinsic
    def where(typing: Any, condition: Any, a: Any, b: Any) -> Any:
        both = typing.unify_types(a, b)

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            test = context.cast(builder, args[0], sig.args[0], types.boolean)
            yes, no = (context.cast(builder, args[k], sig.args[k], both) for k in (1, 2))
            return builder.select(test, yes, no)

        return both(condition, a, b), code

    @intrinsic(prefer_literal=True)
    def words(typing: Any, count: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            with builder.goto_entry_block():
                place = builder.alloca(ir.IntType(64), size=count.literal_value)
            return builder.ptrtoint(place, ir.IntType(64))

        return types.int64(count), code

    @intrinsic
    def call(typing: Any, target: Any, arguments: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            word = ir.IntType(64)
            kind = ir.FunctionType(word, [word] * len(sig.args[1]))
            values = [
                context.cast(builder, builder.extract_value(args[1], k), t, types.int64)
                for k, t in enumerate(sig.args[1])
            ]
            return builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)

        return types.int64(types.int64, arguments), code

    # Numba links its own copy of a kernel, which is never called.
    for symbol in ("mt_apart", "mt_shown"):
        llvm.add_symbol(symbol, 1)

    @intrinsic
    def apart(typing: Any, place: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            module, pointer = builder.module, ir.IntType(8).as_pointer()
            wide = context.cast(builder, args[0], sig.args[0], types.int64)
            made = module.globals.get("mt_apart")
            if made is None:
                made = ir.Function(module, ir.FunctionType(pointer, [ir.IntType(64)]), "mt_apart")
                made.attributes.add("nounwind")
                made.return_value.add_attribute("noalias")
                shown = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer]), "mt_shown")
                shown.attributes.add("nounwind")
            place = builder.call(made, [wide])
            # What is called later may reach it too.
            builder.call(module.globals["mt_shown"], [place])
            return builder.ptrtoint(place, ir.IntType(64))

        return types.int64(place), code

    @intrinsic
    def plus(typing: Any, x: Any, y: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            args = [context.cast(builder, a, t, sig.return_type) for a, t in zip(args, sig.args)]
            return builder.fadd(*args, flags=("reassoc", "nsz"))

        return x(x, y), code

    for n in names:
        scope[n + "_at"] = pointer_to(scope[n])
    for n in ("f32", "f64"):
        scope |= zip((n + "_load", n + "_store", n + "_splat"), _vectors(scope[n]))
    scope |= {"bits": bit_cast(twins), "from_bits": bit_cast(floats)}
    scope |= {n: instruction("llvm." + n, 1) for n in "sqrt floor fabs rint trunc".split()}
    scope |= {"copysign": instruction("llvm.copysign", 2), "fma": instruction("llvm.fma", 3)}
    clear = types.ExternalFunction("feclearexcept", types.int32(types.int32))
    scope |= {"where": where, "words": words, "call": call, "feclearexcept": clear}
    scope |= {"apart": apart, "plus": plus}
    return scope
