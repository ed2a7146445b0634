"""Numba's classes as they compile kernels: with what kernels need, and without the rest.

Numba serves any Python function: it looks for closures, array expressions and objects that count
references, and notes at every step where it is. Kernel text has numbers and pointers alone. So it
goes through the passes that such a text needs, calls with equal types are resolved once, and the
LLVM IR of each function is only collected. It takes 0.4 of the time so. The contexts are our own:
those of the user's functions stay as they are, and ours are ready at once.
"""

import functools
import importlib
from typing import Any


@functools.cache
def target() -> tuple[Any, Any]:
    """Numba's classes of helpers and of entries, for IR alone."""
    from numba.core import ccallback, cpu, dispatcher, registry

    for module in ("builtins", "iterators", "numbers", "rangeobj", "tupleobj"):
        importlib.import_module("numba.cpython." + module)
    pipeline, codegen, typing = _pipeline(), _codegen(), _typing()

    class Context(cpu.CPUContext):  # type: ignore[misc]
        def init(self) -> None:
            super().init()
            self._internal_codegen = codegen

        def load_additional_registries(self) -> None:
            pass

        def post_lowering(self, module: Any, library: Any) -> None:
            pass

        def get_executable(self, library: Any, description: Any, environment: Any) -> Any:
            # Stands for the function in calls.
            return object()

    class Options(cpu.CPUTargetOptions):  # type: ignore[misc]
        noalias = cpu.CPUTargetOptions.Mapping("noalias")

    class Target(registry.CPUTarget):  # type: ignore[misc]
        options = Options

        @functools.cached_property
        def _toplevel_target_context(self) -> Any:
            return Context(self.typing_context, self._target_name)

        @functools.cached_property
        def _toplevel_typing_context(self) -> Any:
            return typing()

    class Helper(dispatcher.Dispatcher):  # type: ignore[misc]
        targetdescr = Target("cpu")

        def __init__(self, function: Any, options: dict[str, Any]) -> None:
            super().__init__(function, {}, options, pipeline)

        def add_overload(self, compiled: Any) -> None:
            self.overloads[tuple(compiled.signature.args)] = compiled

    class Entry(ccallback.CFunc):  # type: ignore[misc]
        _targetdescr = Helper.targetdescr

        def __init__(self, function: Any, signature: Any, options: dict[str, Any]) -> None:
            super().__init__(function, signature, {}, options, pipeline)

    return Helper, Entry


@functools.cache
def function_type() -> Any:
    """Numba's type of a function, which finds the signature for each types of arguments once."""
    from numba import types

    class Function(types.Function):  # type: ignore[misc]
        def __init__(self, template: Any) -> None:
            super().__init__(template)
            self.literal = any(t.prefer_literal for t in self.templates)
            self.known: dict[Any, Any] = {}

        def get_call_type(self, context: Any, args: Any, keywords: Any) -> Any:
            args = tuple(args) if self.literal else tuple(map(types.unliteral, args))
            if args not in self.known:
                self.known[args] = super().get_call_type(context, args, keywords)
            return self.known[args]

    return Function


def _typing() -> Any:
    """The class of contexts that infer types: they know arithmetic and ranges."""
    from numba import types
    from numba.core.typing import builtins, templates
    from numba.core.typing.context import Context

    def basic(template: Any) -> bool:
        return any(kind.__module__ == builtins.__name__ for kind in template.__mro__)

    known = templates.builtin_registry
    arithmetic = templates.Registry()
    arithmetic.functions = [f for f in known.functions if basic(f)]
    arithmetic.attributes = [a for a in known.attributes if basic(a)]
    for value, kind in known.globals:
        if all(map(basic, getattr(kind, "templates", ()))):
            own = function_type()(kind.templates) if type(kind) is types.Function else kind
            arithmetic.globals.append((value, own))

    class Typing(Context):  # type: ignore[misc]
        def refresh(self) -> None:
            self.install_registry(arithmetic)

        def resolve_value_type(self, value: Any) -> Any:
            found = self._lookup_global(value)
            return super().resolve_value_type(value) if found is None else found

    return Typing


def _codegen() -> Any:
    """What collects the LLVM IR of functions, as text."""
    from numba.core import codegen

    class Library(codegen.JITCodeLibrary):  # type: ignore[misc]
        def __init__(self, owner: Any, name: str) -> None:
            codegen.CodeLibrary.__init__(self, owner, name)
            # Of functions that call one in common its text is here once.
            self.texts: dict[str, None] = {}

        def add_linking_library(self, library: Any) -> None:
            self.texts |= library.texts

        def add_ir_module(self, module: Any) -> None:
            self.texts[str(module)] = None

        def finalize(self) -> None:
            self._finalized = True

        def get_pointer_to_function(self, name: str) -> int:
            return 0

        def get_llvm_str(self) -> Any:
            return [*self.texts]

    class Codegen(codegen.JITCPUCodegen):  # type: ignore[misc]
        _library_class = Library

        def set_env(self, name: str, environment: Any) -> None:
            pass

    return Codegen("microtorch")


def _pipeline() -> Any:
    """The passes that kernel text needs."""
    from numba.core import cgutils, compiler, compiler_machinery, ir, lowering
    from numba.core import typed_passes as typed
    from numba.core import untyped_passes as untyped

    class Lower(lowering.Lower):  # type: ignore[misc]
        def setup_function(self, description: Any) -> None:
            super().setup_function(description)
            if not self.flags.forceinline:
                self.function.attributes.add("noinline")

        def lower_block(self, block: Any) -> None:
            self.pre_block(block)
            for statement in block.body:
                self.loc = statement.loc
                if isinstance(statement, ir.Assign):
                    name = statement.target.name
                    self.storevar(self.lower_assign(self.typeof(name), statement), name)
                else:
                    self.lower_inst(statement)
            self.post_block(block)

        def lower_binop(self, result: Any, expression: Any, op: Any) -> Any:
            typing = self.context.typing_context
            function = typing.resolve_value_type(op)
            # Of `x *= y` the signature is that of another function.
            kinds = self.fndesc.calltypes[expression].args
            signature = function.get_call_type(typing, kinds, {})
            args = [
                self.context.cast(self.builder, self.loadvar(v.name), self.typeof(v.name), t)
                for v, t in zip((expression.lhs, expression.rhs), signature.args)
            ]
            made = self.context.get_function(function, signature)(self.builder, args)
            return self.context.cast(self.builder, made, signature.return_type, result)

        def alloca_lltype(self, name: str, kind: Any, datamodel: Any = None) -> Any:
            return cgutils.alloca_once(self.builder, kind, name=name)

    @compiler_machinery.register_pass(mutates_CFG=True, analysis_only=False)
    class Lowering(typed.BaseNativeLowering):  # type: ignore[misc]
        _name: Any = "microtorch_lowering"
        lowering_class = Lower

        def run_pass(self, state: Any) -> Any:
            state.func_ir = typed.PreLowerStripPhis()._strip_phi_nodes(state.func_ir)
            return super().run_pass(state)

    class Pipeline(compiler.CompilerBase):  # type: ignore[misc]
        def define_pipelines(self) -> Any:
            passes = compiler_machinery.PassManager("kernel")
            for each in (
                untyped.TranslateByteCode, untyped.FixupArgs, untyped.ReconstructSSA,
                typed.NopythonTypeInference, Lowering, typed.NoPythonBackend,
            ):  # fmt: skip
                passes.add_pass(each, each.__name__)
            passes.finalize()
            return [passes]

    return Pipeline
