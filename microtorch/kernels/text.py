"""Rows -> kernel source text: str in, str out.

Every kernel has NumPy's inner-loop signature `loop(args, dims, steps, data)`: addresses of the
operands, lengths, byte strides. A loop has a fast path where all operands are contiguous and one
for each usual way of repeating an operand (stride 0), because only a loop with constant strides
becomes SIMD code; any other layout takes the strided path.
"""

import ast
import re
from collections.abc import Iterable, Sequence

from ..table import FOLDS, VOCABULARY, Fold, Row, Rowwise, names_in

# NumPy's dtype name -> (pointer and cast in kernel text, log2 of the size in bytes).
C_TYPE = {
    "float32": ("f32", 2),
    "float64": ("f64", 3),
    "int64": ("i64", 3),
    "int32": ("i32", 2),
    "int16": ("i16", 1),
    "int8": ("i8", 0),
    "uint8": ("u8", 0),
    "bool": ("u8", 0),
}
_LITERAL = re.compile(r"(?<![\w.])(\d+\.?\d*(?:e[+-]?\d+)?)\b|\binf\b")
# Instructions and what is written in terms of them; all else of the vocabulary is vecmath's.
_FLOAT_HELPERS = {
    "maximum": "def maximum(x, y):\n    return where((x > y) | (x != x), x, y)\n",
    "minimum": "def minimum(x, y):\n    return where((x < y) | (x != x), x, y)\n",
}
_INT_HELPERS = {
    "maximum": "def maximum(x, y):\n    return where(x > y, x, y)\n",
    "minimum": "def minimum(x, y):\n    return where(x < y, x, y)\n",
    "fabs": "def fabs(x):\n    return where(x < 0, -x, x)\n",
    "floor": "def floor(x):\n    return x\n",
    "rint": "def rint(x):\n    return x\n",
    "trunc": "def trunc(x):\n    return x\n",
}
INSTRUCTIONS = frozenset("sqrt floor fabs copysign where rint trunc inf maximum minimum".split())

# Elements that a reduction runs in parallel; rows of a block of a column-wise reduction.
LANES = 64
BLOCK = 256


def typed(formula: str) -> str:
    """The formula with every number cast to the kernel's element type F."""
    return _LITERAL.sub(lambda m: "INF" if m[0] == "inf" else f"F({m[1]})", formula)


def prologue(dtype: str, formulas: Iterable[str]) -> str:
    """Types of the kernel and the functions that the formulas call."""
    names = set().union(*map(names_in, formulas))
    if dtype not in ("float32", "float64"):
        name = C_TYPE[dtype][0]
        helpers = "".join(_INT_HELPERS[n] for n in sorted(names & set(_INT_HELPERS)))
        return f"F = {name}\nINF = {_extreme(dtype)}\n{helpers}"
    width = 32 if dtype == "float32" else 64
    wanted = sorted((names & VOCABULARY) - INSTRUCTIONS)
    helpers = "".join(_FLOAT_HELPERS[n] for n in sorted(names & set(_FLOAT_HELPERS)))
    functions = f"from vecmath{width} import {', '.join(wanted)}\n" if wanted else ""
    return f"F, I, U, D = f{width}, i{width}, u{width}, f64\nINF = F(1e400)\n{functions}{helpers}"


def is_cheap(formulas: Iterable[str]) -> bool:
    """Whether the formulas are arithmetic alone."""
    return not set().union(*map(names_in, formulas)) & (VOCABULARY - INSTRUCTIONS)


def _extreme(dtype: str) -> int:
    """The largest integer of a dtype: what `inf` means there."""
    if dtype == "bool":
        return 1
    bits = 8 << C_TYPE[dtype][1]
    return 2**bits - 1 if dtype.startswith("u") else 2 ** (bits - 1) - 1


def function(name: str, operands: Sequence[str], formula: str) -> str:
    """A formula as a function."""
    return f"def {name}({', '.join(operands)}):\n    return {typed(formula)}\n"


def _loop(
    inputs: Sequence[tuple[str, str]],
    outputs: Sequence[tuple[str, str]],
    repeats: Iterable[frozenset[str]],
    in_place: bool,
) -> str:
    """The loop over operands `(name, dtype)`; output `z` holds `z_of(*inputs)`.

    repeats: sets of inputs that may have stride 0, a fast path each. in_place: the first output
    is the first input; one pointer for both lets LLVM see that iterations do not depend on
    each other.
    """
    operands = [*inputs, *outputs]
    lines = ["def loop(args, dims, steps, data):", "    n = i64_at(dims)[0]"]
    lines += ["    a = i64_at(args)", "    s = i64_at(steps)"]
    for k, (name, dtype) in enumerate(operands):
        pointer, shift = C_TYPE[dtype]
        lines.append(f"    {name} = {pointer}_at(a[{k}])")
        lines.append(f"    s_{name} = s[{k}] >> {shift}")
    names = [name for name, _ in inputs]

    def body(index: dict[str, str], indent: str, same: bool) -> Iterable[str]:
        arguments = ", ".join(index[name] for name in names)
        for name, _ in outputs:
            yield f"{indent}r_{name} = {name}_of({arguments})"
        for name, _ in outputs:
            target = names[0] if same else name
            yield f"{indent}{target}[{index[name].partition('[')[2]} = r_{name}"

    word = "if"
    for repeated in repeats:
        test = " and ".join(f"s_{name} == {0 if name in repeated else 1}" for name, _ in operands)
        # NumPy hands over a copy of the result where operands overlap in part.
        test += f" and a[0] == a[{len(inputs)}]" if in_place else ""
        lines.append(f"    {word} {test}:")
        lines += [f"        {name}_0 = {name}[0]" for name in names if name in repeated]
        index = {n: f"{n}_0" if n in repeated else f"{n}[i]" for n, _ in operands}
        lines += ["        for i in range(n):", *body(index, " " * 12, in_place)]
        word = "elif"
    index = {n: f"{n}[i * s_{n}]" for n, _ in operands}
    lines += ["    else:", "        for i in range(n):", *body(index, " " * 12, False)]
    lines.append("    clear_flags()")
    return "\n".join(lines) + "\n"


def formula_of(row: Row, dtype: str) -> str:
    """The formula of a row for a dtype: what is not 0 is true."""
    return f"({row.formula}) != 0" if dtype == "bool" and row.types != "bool" else row.formula


def forward(row: Row, dtype: str, in_place: bool = False) -> str:
    """The kernel of z = formula: operands of one dtype, a result of that dtype or bool."""
    formula = formula_of(row, dtype)
    out = "bool" if row.types == "bool" else dtype
    params = frozenset(row.params)
    repeats = [params]
    if len(row.inputs) == 2:
        repeats += [params | {"y"}] if in_place else [params | {"y"}, params | {"x"}]
    return (
        prologue(dtype, [formula])
        + function("z_of", row.operands, formula)
        + _loop([(n, dtype) for n in row.operands], [("z", out)], repeats, in_place)
    )


def backward(row: Row, needed: tuple[bool, ...], dtype: str, in_place: bool = False) -> str:
    """The kernel of g * dz/dx for every needed input, in one pass.

    Operands: g, then the saved values in the order of `backward_operands`. in_place: the first
    result is written over g.
    """
    assert row.derivatives is not None
    operands = ("g", *backward_operands(row, needed))
    outputs = [n for n, on in zip(row.inputs, needed, strict=True) if on]
    formulas = {
        n: chain(d) for n, d in zip(row.inputs, row.derivatives, strict=True) if n in outputs
    }
    params = frozenset(row.params)
    repeats = [params & set(operands)]
    if not in_place:
        repeats.append(repeats[0] | {"g"})
    if len(row.inputs) == 2 and operands[1:] and not params:
        repeats += [frozenset({n}) for n in operands[1:] if len(operands) == 2]
    functions = "".join(function(f"d{n}_of", operands, formulas[n]) for n in outputs)
    return (
        prologue(dtype, formulas.values())
        + functions
        + _loop(
            [(n, dtype) for n in operands],
            [(f"d{n}", dtype) for n in outputs],
            repeats,
            in_place,
        )
    )


def backward_operands(row: Row, needed: tuple[bool, ...]) -> tuple[str, ...]:
    """Saved values that backward takes, in order: inputs, params, result."""
    saved = row.saved(needed)
    return tuple(n for n in (*row.operands, "z") if n in saved)


def chain(derivative: str) -> str:
    """The chain rule: incoming gradient times local derivative.

    Choices are made outside the product, so that a gradient which is not finite does not pass
    where the derivative is 0.
    """
    tree = ast.parse(derivative, mode="eval").body
    if isinstance(tree, ast.Call) and ast.unparse(tree.func) == "where":
        condition, *choices = map(ast.unparse, tree.args)
        yes, no = ("0" if choice == "0" else chain(choice) for choice in choices)
        return f"where({condition}, {yes}, {no})"
    if derivative in ("1", "-1"):
        return derivative.replace("1", "g")
    return f"g * ({derivative})"


def fold(fold: Fold, row: Row | None, dtype: str, out: str) -> str:
    """The kernel of a reduction over the core dimension, of x or of a row's formula.

    Signature (n)->() or (n),(n)->(); `out` is the dtype of the running value and the result.
    Partial results in LANES fixed places make the loop SIMD, the rounding error small and the
    bits the same on every CPU; where x has contiguous columns, the lanes are the columns.
    """
    operands = row.operands if row else ("x",)
    params = row.params if row else ()
    formula = row.formula if row else "x"
    pointer, shift = C_TYPE[dtype]
    k = len(operands)
    text = prologue(dtype, [formula]) + f"A = {C_TYPE[out][0]}\nA_at = {C_TYPE[out][0]}_at\n"
    extra = names_in(fold.combine) & {"maximum", "minimum"} - names_in(formula)
    helpers = _FLOAT_HELPERS if dtype.startswith("f") else _INT_HELPERS
    text += "".join(helpers[n] for n in extra)
    text += f"def element({', '.join(operands)}):\n    return A({typed(formula)})\n"
    text += function("combine", ("a", "b"), fold.combine)
    text += function("finish", ("a", "n"), re.sub(r"\bn\b", "A(n)", fold.finish))
    text += f"def initial():\n    return A({initial_of(fold.initial, out)})\n"
    text += _COLUMNS if k == 1 else ""
    columns = _TRY_COLUMNS if k == 1 else "    if False:\n        pass\n"
    return text + _FOLD.format(
        steps="\n".join(f"    s_{n} = s[{k + 1 + i}] >> {shift}" for i, n in enumerate(operands)),
        rows="\n".join(
            f"            {n} = {pointer}_at(a[{i}] + o * s[{i}])" for i, n in enumerate(operands)
        ),
        columns=columns.format(pointer=pointer, size=1 << shift, out_size=1 << C_TYPE[out][1]),
        k=k,
        unit=" and ".join(f"s_{n} == {0 if n in params else 1}" for n in operands),
        plain=", ".join(f"{n}[0]" if n in params else f"{n}[i + j]" for n in operands),
        strided=", ".join(f"{n}[(i + j) * s_{n}]" for n in operands),
        single=", ".join(f"{n}[i * s_{n}]" for n in operands),
    )


def initial_of(initial: str, dtype: str) -> str:
    """The first running value of a fold in a dtype."""
    if dtype.startswith("f") or "inf" not in initial:
        return initial.replace("inf", "INF")
    if initial == "inf":
        return str(_extreme(dtype))
    return "0" if dtype[0] in "bu" else str(-_extreme(dtype) - 1)


_COLUMNS = f"""
def columns(x, s_x, z, n, m, lanes):
    for left in range(0, m, {LANES}):
        width = where(m - left < {LANES}, m - left, {LANES})
        for j in range(width):
            z[left + j] = initial()
        for top in range(0, n, {BLOCK}):
            bottom = where(top + {BLOCK} < n, top + {BLOCK}, n)
            for j in range(width):
                lanes[j] = initial()
            for i in range(top, bottom):
                for j in range(width):
                    lanes[j] = combine(lanes[j], element(x[i * s_x + left + j]))
            for j in range(width):
                z[left + j] = combine(z[left + j], lanes[j])
        for j in range(width):
            z[left + j] = finish(z[left + j], n)
"""

_TRY_COLUMNS = """
    if outer > 1 and s[0] == {size} and s[1] == {out_size} and s_x != 1:
        columns({pointer}_at(a[0]), s_x, A_at(a[1]), n, outer, lanes)
"""

_FOLD = f"""
def loop(args, dims, steps, data):
    outer = i64_at(dims)[0]
    n = i64_at(dims)[1]
    a = i64_at(args)
    s = i64_at(steps)
{{steps}}
    lanes = A_at(words({LANES}))
    sums = A_at(words({LANES}))
    whole = n - (n & {LANES - 1})
{{columns}}    else:
        for o in range(outer):
{{rows}}
            z = A_at(a[{{k}}] + o * s[{{k}}])
            if n < {LANES}:
                total = initial()
                for i in range(n):
                    total = combine(total, element({{single}}))
                z[0] = finish(total, n)
            else:
                for j in range({LANES}):
                    sums[j] = initial()
                for top in range(0, whole, {LANES * BLOCK}):
                    rest = whole - top
                    bottom = top + where(rest < {LANES * BLOCK}, rest, {LANES * BLOCK})
                    for j in range({LANES}):
                        lanes[j] = initial()
                    if {{unit}}:
                        for i in range(top, bottom, {LANES}):
                            for j in range({LANES}):
                                lanes[j] = combine(lanes[j], element({{plain}}))
                    else:
                        for i in range(top, bottom, {LANES}):
                            for j in range({LANES}):
                                lanes[j] = combine(lanes[j], element({{strided}}))
                    for j in range({LANES}):
                        sums[j] = combine(sums[j], lanes[j])
                for i in range(whole, n):
                    sums[i - whole] = combine(sums[i - whole], element({{single}}))
                width = {LANES}
                while width > 1:
                    width = width >> 1
                    for j in range(width):
                        sums[j] = combine(sums[j], sums[j + width])
                z[0] = finish(sums[0], n)
    clear_flags()
"""


def rowwise(row: Rowwise, dtype: str) -> str:
    """The kernel of an op on rows, with the signature (n),...,(),...->(n).

    Rows that are contiguous have a path of their own.
    """
    pointer, shift = C_TYPE[dtype]
    operands = (*row.inputs, *row.params, "out")
    formulas = [row.formula, *(formula for _, _, formula in row.lines)]
    folds = [FOLDS[kind] for _, kind, _ in row.lines if kind in FOLDS]
    rows, scalars = {n: n for n in row.inputs}, list(row.params)
    functions, body = [], []
    steps = [f"by_{n}" for n in (*row.inputs, "out")]
    for group in passes(row):
        places = [f"{at}[i * by_{at}]" for at in rows.values()]
        arguments = ", ".join([*places, *scalars])
        for name, _, formula in group:
            functions.append(function(f"{name}_of", [*rows, *scalars], formula))
        name, kind, _ = group[0]
        if kind == "number":
            body.append(f"{name} = {name}_of({', '.join(['F(0)'] * len(rows) + scalars)})")
        elif kind == "row":
            body += ["for i in range(n):", f"    out[i * by_out] = {name}_of({arguments})"]
            rows[name] = "out"
            continue
        else:
            head = ", ".join([*row.inputs, "out", *steps, *scalars, "n", "lanes"])
            functions += _reduction(group, dtype, head, arguments)
            results = ", ".join(name for name, _, _ in group)
            body.append(f"{results} = reduce_{name}({head})")
        scalars += [name for name, _, _ in group]
    functions.append(function("z_of", [*rows, *scalars], row.formula))
    places = [f"{at}[i * by_{at}]" for at in rows.values()]
    body += ["for i in range(n):", f"    out[i * by_out] = z_of({', '.join([*places, *scalars])})"]
    most = max(map(len, passes(row)))
    lines = [
        "def loop(args, dims, steps, data):",
        "    n = i64_at(dims)[1]",
        "    places = i64_at(args)",
        "    strides = i64_at(steps)",
        f"    lanes = {pointer}_at(words({LANES * most}))",
    ]
    lines += [f"    {n} = strides[{len(operands) + k}] >> {shift}" for k, n in enumerate(steps)]
    lines.append("    for o in range(i64_at(dims)[0]):")
    for k, n in enumerate(operands):
        number = "[0]" if n in row.params else ""
        lines.append(f"        {n} = {pointer}_at(places[{k}] + o * strides[{k}]){number}")
    lines.append(f"        if {' and '.join(f'{n} == 1' for n in steps)}:")
    lines += ["            " + re.sub(r"\bby_\w+\b", "1", line) for line in body]
    lines.append("        else:")
    lines += ["            " + line for line in body]
    lines.append("    clear_flags()")
    combines = [fold.combine for fold in folds]
    return prologue(dtype, formulas + combines) + "".join(functions) + "\n".join(lines) + "\n"


def passes(row: Rowwise) -> list[list[tuple[str, str, str]]]:
    """The lines of the op; neighbouring folds that do not need each other stand together."""
    passes: list[list[tuple[str, str, str]]] = []
    for line in row.lines:
        before = passes[-1] if passes else []
        known = {name for name, _, _ in before}
        if line[1] in FOLDS and before and before[0][1] in FOLDS and not names_in(line[2]) & known:
            before.append(line)
        else:
            passes.append([line])
    return passes


def _reduction(
    lines: Sequence[tuple[str, str, str]], dtype: str, head: str, arguments: str
) -> Iterable[str]:
    """The functions of folds in one pass over a row.

    Each has LANES partial results: a shorter inner loop would be unrolled, and miss being SIMD.
    """
    inner = arguments.replace("[i ", "[(i + j) ")
    # Only `lanes` is written.
    text = [f"def reduce_{lines[0][0]}({head}):  # apart", f"    whole = n - (n & {LANES - 1})"]
    many: list[str] = []
    for k, (name, kind, _) in enumerate(lines):
        yield function(f"{name}_with", ("a", "b"), FOLDS[kind].combine)
        finish = re.sub(r"\bn\b", "F(n)", FOLDS[kind].finish)
        yield function(f"{name}_end", ("a", "n"), finish)
        text.append(f"    total_{name} = F({initial_of(FOLDS[kind].initial, dtype)})")
        many.append(f"lanes[{k * LANES} + j]")
    lanes = list(zip((name for name, _, _ in lines), many, strict=True))
    text += ["    if whole:", f"        for j in range({LANES}):"]
    text += [f"            {lane} = total_{name}" for name, lane in lanes]
    text += [f"        for i in range(0, whole, {LANES}):", f"            for j in range({LANES}):"]
    text += [f"                {lane} = {n}_with({lane}, {n}_of({inner}))" for n, lane in lanes]
    text += [
        f"        width = {LANES}",
        "        while width > 1:",
        "            width = width >> 1",
    ]
    text += ["            for j in range(width):"]
    text += [
        f"                {lane} = {n}_with({lane}, {lane.replace('j]', 'j + width]')})"
        for n, lane in lanes
    ]
    text += [f"        total_{name} = lanes[{k * LANES}]" for k, (name, _) in enumerate(lanes)]
    text += ["    for i in range(whole, n):"]
    text += [f"        total_{n} = {n}_with(total_{n}, {n}_of({arguments}))" for n, _ in lanes]
    text.append("    return " + ", ".join(f"{n}_end(total_{n}, n)" for n, _ in lanes))
    yield "\n".join(text) + "\n"
