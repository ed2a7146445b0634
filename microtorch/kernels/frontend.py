"""Kernel text -> LLVM IR: the front half of Numba, and the words that kernel text may use.

Numba reads a text, infers its types and writes LLVM IR for it (`target`). There it ends: `jit`
optimizes the IR and makes machine code of it, once for a whole kernel, where Numba would do so for
every helper too.
"""

import contextlib
import functools
import gc
import re
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from .target import function_type, target

# Every option of the compiler. numpy: x / 0 is inf, without the branch that blocks SIMD.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "nopython": True, "_nrt": False}
# Helpers stand in the entry's code and need no wrappers of their own.
INLINED: dict[str, Any] = {
    **OPTIONS,
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}

# Flags of floating-point operations: those that NumPy warns about (invalid, division by zero,
# overflow, underflow), in x86's register, and all.
NUMPY_FLAGS, ALL_FLAGS = 1 | 4 | 8 | 16, 63


def llvm_ir(
    name: str, text: str, types: list[str], symbol: str, file: str, register: int
) -> tuple[list[str], str]:
    """LLVM IR of each function of the text, not optimized, and the symbol of `name` with C's ABI.

    types: of the result, then of the arguments. symbol: becomes a part of the entry's symbol.
    file: where messages say that the text is. register: bytes of a vector register.
    """
    helper, entry = target()
    scope: dict[str, Any] = {**_vocabulary(register), "__name__": "microtorch_" + symbol}
    exec(compile(text, file, "exec"), scope)
    helpers = []
    for each, how in re.findall(r"^def (\w+)\(.*\):(?:  # (\w+))?$", text, re.MULTILINE):
        if each != name:
            options = {**INLINED, "noalias": how == "apart", "forceinline": how != "once"}
            scope[each] = helper(scope[each], options)
            helpers.append(scope[each])
    scope[name].__name__ = scope[name].__qualname__ = symbol
    result, *arguments = (_type(t) for t in types)
    kernel = entry(scope[name], (tuple(arguments), result), OPTIONS)
    with _deep():
        kernel.compile()
    found = kernel.inspect_llvm(), kernel.native_name
    for made in helpers:
        # The contexts would keep what the helpers were compiled to.
        made._make_finalizer()()
        made._reset_overloads()
    return found


def locked() -> Any:
    """A context in which Numba compiles nothing."""
    from numba.core.compiler_lock import global_compiler_lock

    return global_compiler_lock


@contextlib.contextmanager
def _deep() -> Iterator[None]:
    """Let Numba call itself once for each loop of a text, and collect no garbage meanwhile."""
    before, collecting = sys.getrecursionlimit(), gc.isenabled()
    sys.setrecursionlimit(max(before, 100_000))
    gc.disable()
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
        if collecting:
            gc.enable()


def _type(name: str) -> Any:
    from numba import types

    return {"void": types.void, "i64": types.int64, "f64": types.float64}[name]


def _word(define: Callable[..., Any], literal: bool = False) -> Any:
    """A function of the text that is instructions: define(typing, *types) -> signature, code.

    literal: it is told the values of literal arguments.
    """
    from numba.core.typing.templates import AbstractTemplate

    context = target()[0].targetdescr.target_context
    known: dict[Any, Any] = {}

    class Word(AbstractTemplate):  # type: ignore[misc]
        key = define
        prefer_literal = literal

        def generic(self, args: Any, keywords: Any) -> Any:
            if args not in known:
                known[args] = signature, code = define(self.context, *args)
                context.insert_func_defn([(code, code, signature.args)])
            signature, self.code = known[args]
            return signature

        def get_impl_key(self, signature: Any) -> Any:
            return self.code

    return SimpleNamespace(_numba_type_=function_type()(Word))


def _vectors(element: Any, register: int) -> tuple[Any, Any, Any]:
    """load, store and splat of vectors of a float type."""
    import llvmlite.ir as ir
    from numba import types
    from numba.extending import models, register_model

    size = element.bitwidth // 8
    name = f"f{element.bitwidth}"
    lanes = register // size
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

    @_word
    def load(typing: Any, pointer: Any, i: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.load(place(builder, args), align=size)

        return vector(pointer, types.int64), code

    @_word
    def store(typing: Any, pointer: Any, i: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            builder.store(args[2], place(builder, args), align=size)
            return context.get_dummy_value()

        return types.void(pointer, types.int64, vector), code

    @_word
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
def _vocabulary(register: int) -> dict[str, Any]:
    """The names that kernel text may use, as Numba types and intrinsics."""
    import llvmlite.ir as ir
    from numba import types
    from numba.core import cgutils

    names = "f32 f64 i8 i16 i32 i64 u8 u16 u32 u64".split()
    full = {"f": "float", "i": "int", "u": "uint"}
    scope: dict[str, Any] = {n: getattr(types, full[n[0]] + n[1:]) for n in names}
    # The signed twin of each float type, for bit-casts.
    twins = {types.float32: types.int32, types.float64: types.int64}
    floats = {twin: float_type for float_type, twin in twins.items()}

    def pointer_to(element: Any) -> Any:
        @_word
        def at(typing: Any, place: Any) -> Any:
            def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                wide = context.cast(builder, args[0], sig.args[0], types.int64)
                return builder.inttoptr(wide, context.get_value_type(sig.return_type))

            return types.CPointer(element)(place), code

        return at

    def bit_cast(twin_of: dict[Any, Any]) -> Any:
        @_word
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
            return _word(lambda typing, x: (x(x), emit))
        if arity == 2:
            return _word(lambda typing, x, y: (x(x, y), emit))
        return _word(lambda typing, x, y, z: (x(x, y, z), emit))

    @_word
    def where(typing: Any, condition: Any, a: Any, b: Any) -> Any:
        both = typing.unify_types(a, b)

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            test = context.cast(builder, args[0], sig.args[0], types.boolean)
            yes, no = (context.cast(builder, args[k], sig.args[k], both) for k in (1, 2))
            return builder.select(test, yes, no)

        return both(condition, a, b), code

    def smaller(order: str) -> Any:
        def define(typing: Any, a: Any, b: Any) -> Any:
            def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                args = [context.cast(builder, v, t, types.int64) for v, t in zip(args, sig.args)]
                return builder.select(builder.icmp_signed(order, *args), *args)

            return types.int64(a, b), code

        return _word(define)

    @functools.partial(_word, literal=True)
    def words(typing: Any, count: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            with builder.goto_entry_block():
                place = builder.alloca(ir.IntType(64), size=count.literal_value)
            return builder.ptrtoint(place, ir.IntType(64))

        return types.int64(count), code

    @_word
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

    def alone(module: Any, builder: Any, place: Any) -> Any:
        """A pointer that `jit` promises to overlap no other."""
        pointer = ir.IntType(8).as_pointer()
        made = module.globals.get("mt_apart")
        if made is None:
            made = ir.Function(module, ir.FunctionType(pointer, [ir.IntType(64)]), "mt_apart")
            made.attributes.add("nounwind")
            made.return_value.add_attribute("noalias")
            shown = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer]), "mt_shown")
            shown.attributes.add("nounwind")
        place = builder.call(made, [place])
        # What is called later may reach it too.
        builder.call(module.globals["mt_shown"], [place])
        return place

    @_word
    def apart(typing: Any, place: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            wide = context.cast(builder, args[0], sig.args[0], types.int64)
            return builder.ptrtoint(alone(builder.module, builder, wide), ir.IntType(64))

        return types.int64(place), code

    def pointer_in(element: Any) -> Any:
        @_word
        def of(typing: Any, table: Any, line: Any, k: Any) -> Any:
            def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
                def word(pointer: Any, index: Any) -> Any:
                    return builder.load(builder.gep(pointer, [index]))

                table, line, k = args
                start = word(table, word(line, k))
                place = builder.add(start, word(line, builder.add(k, ir.IntType(64)(1))))
                found = alone(builder.module, builder, place)
                return builder.bitcast(found, context.get_value_type(sig.return_type))

            return types.CPointer(element)(table, line, types.int64), code

        return of

    @_word
    def plus(typing: Any, x: Any, y: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            args = [context.cast(builder, a, t, sig.return_type) for a, t in zip(args, sig.args)]
            return builder.fadd(*args, flags=("reassoc", "nsz"))

        return x(x, y), code

    @_word
    def clear_flags(typing: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            module, word, pointer = builder.module, ir.IntType(32), ir.IntType(8).as_pointer()
            if not module.triple.startswith("x86_64"):
                kind = ir.FunctionType(word, [word])
                function = cgutils.get_or_insert_function(module, kind, "feclearexcept")
                builder.call(function, [word(ALL_FLAGS)])
                return context.get_dummy_value()
            kind = ir.FunctionType(ir.VoidType(), [pointer])
            store, load = (
                module.declare_intrinsic(f"llvm.x86.sse.{n}", (), kind)
                for n in ("stmxcsr", "ldmxcsr")
            )
            with builder.goto_entry_block():
                place = builder.alloca(word)
            at = builder.bitcast(place, pointer)
            # What has been computed is stored before.
            builder.fence("seq_cst", "singlethread")
            builder.call(store, [at])
            flags = builder.load(place)
            raised = builder.icmp_unsigned("!=", builder.and_(flags, word(NUMPY_FLAGS)), word(0))
            with builder.if_then(raised, likely=False):
                builder.store(builder.and_(flags, word(~ALL_FLAGS)), place)
                builder.call(load, [at])
            return context.get_dummy_value()

        return types.void(), code

    for n in names:
        scope |= {n + "_at": pointer_to(scope[n]), n + "_of": pointer_in(scope[n])}
    for n in ("f32", "f64"):
        scope |= zip((n + "_load", n + "_store", n + "_splat"), _vectors(scope[n], register))
    scope |= {"bits": bit_cast(twins), "from_bits": bit_cast(floats)}
    scope |= {n: instruction("llvm." + n, 1) for n in "sqrt floor fabs rint trunc".split()}
    scope |= {"copysign": instruction("llvm.copysign", 2), "fma": instruction("llvm.fma", 3)}
    scope |= {"libm_" + n: instruction("llvm." + n, 1) for n in ("cos", "log", "sin")}
    scope["libm_log1p"] = types.ExternalFunction("log1p", types.float64(types.float64))
    scope |= {"where": where, "words": words, "call": call, "clear_flags": clear_flags}
    scope |= {"apart": apart, "plus": plus, "min": smaller("<"), "max": smaller(">")}
    return scope
