"""The package's shape: dependencies point down, compilers live in one module, files stay short.

Everything is read off the syntax trees, so imports inside functions and under TYPE_CHECKING count.
"""

import ast
import graphlib
import importlib.util
import pathlib
import re
import sys

import pytest

spec = importlib.util.find_spec("microtorch")
ROOT = pathlib.Path(spec.submodule_search_locations[0])

# A module imports from its own level and those before it, and nothing in a circle. A name stands
# for a module or a whole folder; the most exact one counts.
LEVELS = (
    ("dtypes", "device", "errors", "missing", "table", "derive"),
    ("graph", "kernels", "kernels.frontend", "kernels.text", "kernels.vecmath", "kernels.store",
     "kernels.target", "printing"),
    ("kernels.jit",),
    ("kernels.convolve", "kernels.cpu", "kernels.entry", "kernels.gemm",
     "kernels.info", "kernels.lapack", "kernels.native", "kernels.objects", "kernels.rows",
     "kernels.operations", "kernels.stream", "kernels.standin",
     "kernels.threads", "kernels.blas", "kernels.ufuncs", "kernels.windows"),
    ("tensor", "random", "cuda", "functions", "value", "custom"),
    ("gpu",),
    ("autograd",),
    ("nn", "optim", "data", "utils", "checkpoint", "interop", "torchsummary", "summary", "drawing",
     "drawing_layout", "testing", "linalg", "limits", "backends", "types", "func"),
    ("capture", "compiler"),
    ("",),
)  # fmt: skip

# Imports inside functions, with the reason for each.
ON_DEMAND = {
    ("", "importlib"): "names that few programs use are loaded by __getattr__",
    ("capture.choice", "microtorch.capture.cuda"): "only where a GPU is used",
    ("device", "importlib"): "the GPU's package is loaded when a GPU is asked for",
    ("drawing", "matplotlib"): "only to draw",
    ("errors", "difflib"): "only to word an error",
    ("errors", "microtorch.missing"): "only to word an error",
    ("errors", "importlib"): "submodules that few programs use are loaded by __getattr__",
    ("gpu.blas", "nvmath"): "only where it is installed",
    ("gpu.compiler", "cuda"): "only where it is installed",
    ("gpu.compiler", "importlib"): "only to find a package's version",
    ("gpu.compiler", "numba"): "0.4 s, not needed where the cache is warm",
    ("gpu.driver", "cuda"): "only where it is installed",
    ("gpu.driver", "importlib"): "only to find a package's version",
    ("gpu.driver", "microtorch.gpu.simulator"): "only in tests",
    ("nn.module", "importlib"): "only where a module is compiled",
    ("kernels.jit", "llvmlite"): "40 ms, not needed where link places the code",
    ("kernels.frontend", "llvmlite"): "not needed where the cache is warm",
    ("kernels.frontend", "numba"): "0.2 s, not needed where the cache is warm",
    ("kernels.target", "numba"): "0.2 s, not needed where the cache is warm",
    ("tensor", "microtorch.printing"): "only to show a tensor",
}

# Modules that use the standard library alone.
NO_PACKAGES = (
    "table",
    "derive",
    "errors",
    "missing",
    "graph",
    "kernels.steps",
    "kernels.store",
    "kernels.text",
    "kernels.vecmath",
)
COMPILER_WORDS = re.compile(r"\bnjit\b|\bcfunc\b|\bcuda\.jit\b|\b(import|from)\s+(numba|llvmlite)")
# Files that may drive the compilers: Numba and LLVM for the CPU, and one for the GPU.
COMPILER_FILES = {"kernels.frontend", "kernels.jit", "kernels.target", "gpu.compiler"}
LONGEST = 450
# What may be longer, up to how many lines, and why.
LONGER = {
    "capture.guards": (480, "one walk, with a case for each kind of value"),
    "kernels.entry": (480, "one text, of all that a call does"),
    "tensor": (710, "one class with the attributes and conversions that PyTorch gives it"),
    "table": (620, "the table is one, and read as one"),
    "nn.module": (490, "one class with the methods that PyTorch gives it"),
    "kernels.vecmath": (650, "a text for each function and each width, with its error bounds"),
    "random": (515, "a method for each distribution, with PyTorch's errors"),
}


def modules():
    """Name, without the package's, to file."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name):
    """`(imported module in full, whether inside a function)` of every import of a module."""
    path = MODULES[name]
    here = ["microtorch", *name.split(".")] if name else ["microtorch"]
    package = here if path.name == "__init__.py" else here[:-1]

    def targets(statement):
        if isinstance(statement, ast.Import):
            return [alias.name for alias in statement.names]
        base = package[: len(package) - statement.level + 1] if statement.level else []
        stem = ".".join([*base, *filter(None, [statement.module])])
        if not stem.startswith("microtorch"):
            return [stem]
        inner = [f"{stem}.{alias.name}" for alias in statement.names]
        return [t if t.removeprefix("microtorch.") in MODULES else stem for t in inner]

    def walk(tree, inside):
        for child in ast.iter_child_nodes(tree):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                yield from ((target, inside) for target in targets(child))
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, inside or function)

    return sorted(set(walk(ast.parse(path.read_text()), False)))


def own(target):
    """The name without the package's, or None for what is not of the package."""
    if target.partition(".")[0] != "microtorch":
        return None
    return target.partition(".")[2]


def level(name):
    """The level of a module, by the most exact name in the table."""
    for length in range(name.count(".") + 1, -1, -1):
        prefix = ".".join(name.split(".")[:length]) if length else None
        for number, names in enumerate(LEVELS):
            if (prefix if prefix is not None else "") in names and (prefix or not name):
                return number
    raise LookupError(f"microtorch.{name} has no level: give it one in LEVELS")


def test_the_package_was_found():
    assert {"", "table", "tensor", "kernels.jit", "graph.engine", "functions.view"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_dependencies_point_down(name):
    for target, _ in imports(name):
        if own(target) is not None:
            assert level(own(target)) <= level(name), f"microtorch.{name} imports {target}"


def test_no_circle_of_imports():
    graph = {n: {own(t) for t, _ in imports(n) if own(t) is not None} - {n} for n in MODULES}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_inside_functions_have_a_reason(name):
    for target, inside in imports(name):
        root = target if own(target) is not None else target.partition(".")[0]
        if inside:
            assert (name, root) in ON_DEMAND, f"microtorch.{name} imports {target} in a function"


def test_every_reason_is_still_needed():
    used = {
        (name, t if own(t) is not None else t.partition(".")[0])
        for name in MODULES
        for t, inside in imports(name)
        if inside
    }
    assert set(ON_DEMAND) <= used


@pytest.mark.parametrize("name", MODULES)
def test_third_parties_are_numpy_alone(name):
    allowed = {"microtorch", *sys.stdlib_module_names}
    if not any(name == n or name.startswith(n + ".") for n in NO_PACKAGES):
        allowed.add("numpy")
    if name in COMPILER_FILES:
        allowed |= {"numba", "llvmlite"}
    if name.partition(".")[0] in ("drawing", "interop", "gpu"):
        allowed |= {target.partition(".")[0] for target, inside in imports(name) if inside}
    assert {target.partition(".")[0] for target, _ in imports(name)} <= allowed


def test_the_graph_knows_nothing_but_itself():
    for name in MODULES:
        if name.partition(".")[0] == "graph":
            found = {own(t) for t, _ in imports(name) if own(t) is not None}
            assert all(f.startswith("graph") for f in found), f"microtorch.{name} imports {found}"


def test_the_table_imports_nothing_of_the_package():
    assert not [t for t, _ in imports("table") if own(t) is not None]


def test_compilers_are_named_in_one_place():
    named = {n for n, path in MODULES.items() if COMPILER_WORDS.search(path.read_text())}
    assert named <= COMPILER_FILES
    assert "kernels.jit" in named


def test_the_word_search_finds_what_it_is_for():
    for text in ("@numba.njit", "cfunc(x)", "@cuda.jit", "import numba", "from llvmlite import ir"):
        assert COMPILER_WORDS.search(text)
    assert not COMPILER_WORDS.search("Numba compiles it; jit.function; from .jit import numbers")


@pytest.mark.parametrize("name", MODULES)
def test_files_are_short_and_say_what_they_are(name):
    text = MODULES[name].read_text()
    most, _ = LONGER.get(name, (LONGEST, ""))
    assert len(text.splitlines()) <= most
    assert ast.get_docstring(ast.parse(text)), f"microtorch.{name} has no docstring"


def test_every_exception_to_the_length_is_still_needed():
    long = {n for n, path in MODULES.items() if len(path.read_text().splitlines()) > LONGEST}
    assert set(LONGER) == long


def test_files_have_no_tabs_or_trailing_spaces():
    for name, path in MODULES.items():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert "\t" not in line and line == line.rstrip(), f"microtorch.{name}, line {number}"


def test_architecture_gives_the_size_of_the_table():
    from microtorch.table import FOLDS, ROWS, ROWWISE, STEPS

    text = (pathlib.Path(__file__).parent.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert f"{len(ROWS)} rows, {len(FOLDS)} folds, {len(ROWWISE)} row-wise ops" in text
    assert f"and {len(STEPS)} updates" in text
