"""Rows -> CUDA kernel text: str in, str out.

Kernels take what they need as 64-bit words, so that a launch costs the same for any number of
operands. Every loop strides over the whole grid, so any grid is right. Positions are counted in the
order of the result's elements and taken apart into one index a dimension.
"""

import functools
import re
from collections.abc import Callable, Iterable, Sequence

from ..kernels.text import (
    _FLOAT_HELPERS,
    _INT_HELPERS,
    C_TYPE,
    function,
    initial_of,
    passes,
    prologue,
    typed,
)
from ..table import FOLDS, Rowwise, Step, names_in, substitute

Operand = tuple[str, str]
Line = tuple[str, str, str]


def _lengths(prefix: str, rank: int) -> list[str]:
    return [f"{prefix}{d}" for d in range(1, rank)]


def _indices(
    position: str, prefix: str, index: str, rank: int, indent: str, bits: int
) -> list[str]:
    """Lines that take a position apart: index0, index1, ... of lengths prefix1, prefix2, ...

    bits: that hold all positions: 32, or 64, which takes twice as long.
    """
    lines, rest = [], position
    for d in range(rank - 1, 0, -1):
        lines.append(f"{indent}{index}r{d} = quotient{bits}({rest}, {prefix}{d})")
        lines.append(f"{indent}{index}{d} = {rest} - {index}r{d} * {prefix}{d}")
        rest = f"{index}r{d}"
    return [*lines, f"{indent}{index}0 = {rest}"]


def _place(name: str, index: str, rank: int, step: str = "s") -> str:
    return " + ".join(f"{index}{d} * {step}_{name}{d}" for d in range(rank))


def _steps(names: Sequence[str], rank: int, step: str = "s") -> list[str]:
    return [f"{step}_{n}{d}" for n in names for d in range(rank)]


def _pointers(operands: Sequence[Operand], indent: str = "    ") -> list[str]:
    return [f"{indent}p_{n} = {C_TYPE[dtype][0]}_at(a_{n})" for n, dtype in operands]


def together(ins: Sequence[Operand]) -> int:
    """How many positions a thread reads before it computes: 16 bytes of each operand, 32 of all.

    An H200 needs some 24 KB on their way to each multiprocessor, 16 bytes to each of 1,536 threads.
    A store ends what the compiler reads ahead, as the next address may be the one stored to.
    """
    sizes = [1 << C_TYPE[dtype][1] for _, dtype in ins] or [1]
    return max(1, min(8, 16 // max(sizes), 32 // sum(sizes)))


def _strided(
    copies: int, lines: Callable[[int], list[str]], end: str, step: object, pad: str = "    "
) -> list[str]:
    """A loop from position _i to `end`, of so many positions at a time and then one by one.

    lines(copies): what is done for positions _i, _i + step, ...
    """
    made: list[str] = []
    for each in sorted({copies, 1}, reverse=True):
        made += [f"{pad}while _i + {each - 1} * {step} < {end}:", *lines(each)]
        made += [f"{pad}    _i += {each} * {step}"]
    return made


def _numbered(formula: str, names: Iterable[str], number: int) -> str:
    """The formula for one of several positions."""
    return typed(substitute(formula, {n: f"{n}_{number}" for n in names}))


def _kernel(parameters: Sequence[str], body: Sequence[str]) -> str:
    return "\n".join([f"def kernel({', '.join(parameters)}):", *body]) + "\n"


@functools.cache
def elementwise(
    rank: int, ins: Sequence[Operand], outs: Sequence[Operand], lines: Sequence[Line], dtype: str,
    far: str = "", folds: Sequence[tuple[str, str]] = (), threads: int = 0, bits: int = 64,
) -> str:  # fmt: skip
    """Formulas for every element: `kernel(n, lengths, addresses, distances, addresses of folds)`.

    Operands are (name, dtype). A line is (name, dtype, formula over ins and lines before it),
    computed in `dtype`; an out is stored from the line of its name. far: an operand that is found
    at distances which int64 operand `at` holds, from where its own distances lead. folds: (line,
    fold) of all elements; each block stores what its part comes to. bits: of positions.
    """
    operands, dtypes = [n for n, _ in (*ins, *outs)], {n: d for n, d, _ in lines}
    names = {*operands, *dtypes}
    kinds = {n: C_TYPE[d][0] for n, d in dtypes.items()}
    formulas, combines = [f for _, _, f in lines], {k: FOLDS[k].combine for _, k in folds}
    text = prologue(dtype, formulas) + fold_helpers(dtype, formulas, combines.values())
    text += "".join(function(f"{k}_with", ("a", "b"), f) for k, f in combines.items())
    parameters = ["_n", *_lengths("_d", rank), *(f"a_{n}" for n in operands)]
    parameters += [*_steps(operands, rank), *(f"a_{n}" for n, _ in folds)]
    body = _pointers([*ins, *outs])
    body += [f"    t_{n} = {kinds[n]}({initial_of(FOLDS[k].initial, dtypes[n])})"
             for n, k in folds]  # fmt: skip
    body += ["    _i = cuda.grid(1)", "    _step = cuda.gridsize(1)"]

    def place(n: str, u: int) -> str:
        return _place(n, f"_j{u}_", rank) + (f" + p_at[{place('at', u)}]" if n == far else "")

    def lines_of(copies: int) -> list[str]:
        each, made = range(copies), []
        for u in each:
            made += _indices(f"(_i + {u} * _step)", "_d", f"_j{u}_", rank, " " * 8, bits)
        made += [f"        {n}_{u} = p_{n}[{place(n, u)}]"
                 for u in each for n, _ in ins if n != "at"]  # fmt: skip
        made += [f"        {n}_{u} = {kinds[n]}({_numbered(f, names, u)})"
                 for u in each for n, _, f in lines]  # fmt: skip
        made += [f"        p_{n}[{place(n, u)}] = {n}_{u}" for u in each for n, _ in outs]
        return made + [f"        t_{n} = {k}_with(t_{n}, {n}_{u})" for u in each for n, k in folds]

    body += _strided(together(ins), lines_of, "_n", "_step")
    # Of the block, one a type for all folds in turn: there is little such memory.
    body += [f"    lanes_{kind} = shared({threads}, T_{kind})"
             for kind in sorted({kinds[n] for n, _ in folds})]  # fmt: skip
    body += ["    _t = cuda.threadIdx.x"] * bool(folds)
    for n, k in folds:
        lanes = f"lanes_{kinds[n]}"
        body += [f"    {lanes}[_t] = t_{n}", *tree(lanes, f"{k}_with", threads, "    ", "_t")]
        body += [f"    p_{n} = {kinds[n]}_at(a_{n})", "    if _t == 0:"]
        body += [f"        p_{n}[cuda.blockIdx.x] = {lanes}[0]", "    cuda.syncthreads()"]
    return text + _kernel(parameters, body)


def fold_helpers(dtype: str, formulas: Iterable[str], combines: Iterable[str]) -> str:
    """Functions that folds need and the formulas do not."""
    extra = set().union(*map(names_in, combines)) & {"maximum", "minimum"}
    helpers = _FLOAT_HELPERS if dtype.startswith("f") else _INT_HELPERS
    known = set().union(*map(names_in, formulas))
    return "".join(helpers[n] for n in sorted(extra - known))


_TREE = """{pad}cuda.syncthreads()
{pad}_width = {half}
{pad}while _width >= {least}:
{pad}    if {t} < _width:
{pad}        {shared}[{t}] = {combine}({shared}[{t}], {shared}[{t} + _width])
{pad}    cuda.syncthreads()
{pad}    _width = _width >> 1"""


def tree(
    shared: str, combine: str, threads: int, indent: str, t: str = "t", least: int = 1
) -> list[str]:
    """Lines that combine the values of all threads into the `least` first, in a fixed order."""
    half = threads // 2
    lines = _TREE.format(pad=indent, half=half, shared=shared, combine=combine, t=t, least=least)
    return [lines]


@functools.cache
def fold(
    name: str, ins: Sequence[Operand], formula: str, out: str, kept: int, reduced: int,
    threads: int, columns: bool, last: bool, bits: int = 64,
) -> str:  # fmt: skip
    """A fold of a formula over `reduced` dims; `kept` others stay.

    Each of `chunks` parts of the positions that are reduced gives one value for each of `outer`
    results; a second launch (`last`, of one chunk) combines and finishes these. columns: a thread
    does one part alone, and neighbours do neighbouring results; else a block does it together.
    """
    kind, names = FOLDS[name], [n for n, _ in ins]
    dtype, pointer = ins[0][1], C_TYPE[out][0]
    text = prologue(dtype, [formula]) + fold_helpers(dtype, [formula], [kind.combine])
    text += f"def element({', '.join(names)}):\n    return {pointer}({typed(formula)})\n"
    text += function("combine", ("a", "b"), kind.combine)
    text += function("finish", ("a", "n"), re.sub(r"\bn\b", f"{pointer}(n)", kind.finish))
    text += f"def initial():\n    return {pointer}({initial_of(kind.initial, out)})\n"
    parameters = ["outer", "chunks", "total", "part", "n", *_lengths("d", kept)]
    parameters += [*_lengths("e", reduced), "a_out", *(f"a_{n}" for n in names)]
    parameters += [*_steps(names, kept), *_steps(names, reduced, "r")]
    body = _pointers([*ins, ("out", out)])
    work = "cuda.grid(1)" if columns else "cuda.blockIdx.x"
    stride = "cuda.gridsize(1)" if columns else "cuda.gridDim.x"
    if not columns:
        body += [f"    lanes = shared({threads}, T_{pointer})"]
        body += ["    t = cuda.threadIdx.x"]
    body += [f"    w = {work}", "    while w < outer * chunks:"]
    body += [f"        c = quotient{bits}(w, outer)", "        o = w - c * outer"]
    body += [*_indices("o", "d", "j", kept, " " * 8, bits)]
    body += [f"        b_{n} = {_place(n, 'j', kept)}" for n in names]
    body += ["        value = initial()", "        i = c * part" + ("" if columns else " + t")]
    body += ["        end = where(c * part + part < total, c * part + part, total)"]
    body += ["        while i < end:", *_indices("i", "e", "k", reduced, " " * 12, bits)]
    values = ", ".join(f"p_{n}[b_{n} + {_place(n, 'k', reduced, 'r')}]" for n in names)
    body += [f"            value = combine(value, element({values}))"]
    body += ["            i += " + ("1" if columns else str(threads))]
    finished = "finish({}, n)" if last else "{}"
    if columns:
        body += [f"        p_out[w] = {finished.format('value')}"]
    else:
        body += ["        lanes[t] = value", *tree("lanes", "combine", threads, " " * 8)]
        body += ["        if t == 0:", f"            p_out[w] = {finished.format('lanes[0]')}"]
        body += ["        cuda.syncthreads()"]
    return text + _kernel(parameters, [*body, f"        w += {stride}"])


def lasting(row: Rowwise) -> int:
    """How many inputs several passes over a row need."""
    texts = [" ".join(formula for _, _, formula in group) for group in passes(row)]
    needed = [names_in(text) for text in (*texts, row.formula)]
    return sum(sum(n in names for names in needed) > 1 for n in row.inputs)


@functools.cache
def rowwise(
    row: Rowwise, dtype: str, rank: int, threads: int, width: int, held: int, columns: bool,
    bits: int = 64,
) -> str:  # fmt: skip
    """An op on rows: `kernel(outer, n, lengths, addresses, distances)`.

    A block of `threads` does several rows at a time, `width` threads each. held: elements that
    each of these keeps in registers, n / width rounded up; or 0: every pass over the row reads it
    from memory. columns: neighbours do neighbouring rows; else one row together. rank: of what
    the rows are counted by; the last distance of each input is along the row.
    """
    pointer, rows, pad = C_TYPE[dtype][0], threads // width, " " * 8
    names = [*row.inputs, *row.params, "out"]
    formulas = [row.formula, *(formula for _, _, formula in row.lines)]
    combines = [FOLDS[kind].combine for _, kind, _ in row.lines if kind in FOLDS]
    # As many blocks on a multiprocessor, with its 65,536 registers, as what they hold allows.
    needed = 40 + (held * lasting(row) << C_TYPE[dtype][1] - 2) if held else 64
    blocks = 65536 // (threads * needed)
    text = f"# registers {65536 // (threads * blocks) // 8 * 8}\n"
    text += prologue(dtype, formulas + combines)
    parameters = ["_outer", "_n", *_lengths("_d", rank), *(f"a_{n}" for n in names)]
    parameters += [*_steps(names, rank), *(f"by_{n}" for n in (*row.inputs, "out"))]
    body = _pointers([(n, dtype) for n in names])
    body += [f"    lanes = shared({threads}, T_{pointer})", "    _t = cuda.threadIdx.x"]
    near = rows if columns else width
    places = f"_t & {near - 1}", f"_t >> {near.bit_length() - 1}"
    body += [f"    _row = {places[not columns]}", f"    _lane = {places[columns]}"]
    body += [f"    _first = cuda.blockIdx.x * {rows}", "    while _first < _outer:"]
    # Where no more rows are, the last is done again, and where a row ends, its last element.
    body += [f"{pad}_o = where(_first + _row < _outer, _first + _row, _outer - 1)"]
    body += _indices("_o", "_d", "_j", rank, pad, bits)
    body += [f"{pad}b_{n} = {_place(n, '_j', rank)}" for n in names]
    body += [f"{pad}{n} = p_{n}[b_{n}]" for n in row.params]
    body += [f"{pad}_i{u} = _lane + {u * width}" for u in range(held)]
    if held:
        body += [f"{pad}_inside = _i{held - 1} < _n"]
        body += [f"{pad}_i{held - 1} = where(_inside, _i{held - 1}, _n - 1)"]
    # Rows that are made of others where they are needed, and those that are in registers.
    derived, ready = dict[str, str](), set[str]()
    every = {*row.inputs, *(name for name, kind, _ in row.lines if kind == "row")}

    def place(n: str, u: int) -> str:
        return f"p_{n}[b_{n} + " + (f"_i{u}" if held else f"(_i + {u * width})") + f" * by_{n}]"

    def line(name: str, kind: str, formula: str, u: int) -> str:
        value = _numbered(formula, every, u)
        if name == "out":
            return f"{place('out', u)} = {value}"
        found = substitute(FOLDS[kind].combine, {"a": name, "b": f"({value})"})
        return f"{name} = " + (f"where(_inside, {found}, {name})" if u == held - 1 else found)

    def walk(group: Sequence[Line]) -> list[str]:
        """A pass over the row: what it reads, of several positions at a time, and what it does."""
        wanted = set[str]().union(*(names_in(formula) for _, _, formula in group)) - ready
        for n in reversed(derived):
            if n in wanted:
                wanted |= names_in(derived[n]) - ready
        made = [n for n in derived if n in wanted]
        read = [n for n in row.inputs if n in wanted]
        copies = together([(n, dtype) for n in read])

        def lines_of(numbers: Sequence[int], indent: str) -> list[str]:
            found = [f"{n}_{u} = {place(n, u)}" for u in numbers for n in read]
            for u in numbers:
                found += [f"{n}_{u} = {_numbered(derived[n], every, u)}" for n in made]
                found += [line(*each, u) for each in group]
            return [indent + x for x in found]

        if not held:
            loop = _strided(copies, lambda k: lines_of(range(k), pad + "    "), "_n", width, pad)
            return [f"{pad}_i = _lane + 0", *loop]
        ready.update(read, made)
        parts = (range(held)[k : k + copies] for k in range(0, held, copies))
        return [x for part in parts for x in lines_of(part, pad)]

    for group in [*passes(row), [("out", "", row.formula)]]:
        name, kind, formula = group[0]
        if kind == "row":
            derived[name] = formula
            continue
        if kind == "number":
            body += [f"{pad}{name} = {typed(formula)}"]
            continue
        folds = [each for each in group if each[1] in FOLDS]
        for name, kind, _ in folds:
            fold = FOLDS[kind]
            text += function(f"{name}_with", ("a", "b"), fold.combine)
            text += function(f"{name}_end", ("a", "n"), re.sub(r"\bn\b", "F(n)", fold.finish))
            body += [f"{pad}{name} = F({initial_of(fold.initial, dtype)})"]
        body += walk(group)
        for name, _, _ in folds:
            body += [f"{pad}lanes[_lane * {rows} + _row] = {name}"]
            body += tree("lanes", f"{name}_with", threads, pad, "_t", rows)
            body += [f"{pad}{name} = {name}_end(lanes[_row], _n)", f"{pad}cuda.syncthreads()"]
    return text + _kernel(parameters, [*body, f"{pad}_first += cuda.gridDim.x * {rows}"])


def step(row: Step, dtype: str) -> str:
    """An optimizer's update of many parameters, with its numbers as words."""
    written = [n for n in row.arrays if any(line.startswith(n + " = ") for line in row.statements)]
    stores = tuple((n, n) for n in written)
    numbers = tuple((n, "") for n in row.numbers)
    return update(row.arrays, numbers, row.statements, stores, dtype)


@functools.cache
def update(
    arrays: Sequence[str], numbers: Sequence[Operand], statements: Sequence[str],
    stores: Sequence[tuple[str, str]], dtype: str,
) -> str:  # fmt: skip
    """The same statements for many lines of arrays: `kernel(a_table, numbers)`.

    table: a line has the addresses of its arrays and their number of elements. numbers: with the
    dtype of each, if its address is given, or "". stores: arrays, and the variables stored there.
    """
    pointer, width = C_TYPE[dtype][0], len(arrays) + 1
    body = ["    table = i64_at(a_table)", "    line = cuda.blockIdx.y"]
    body += [f"    {n} = F({f'{C_TYPE[kind][0]}_at(a_{n})[0]' if kind else f'number_{n}'})"
             for n, kind in numbers]  # fmt: skip
    body += [f"    p_{n} = {pointer}_at(table[line * {width} + {k}])" for k, n in enumerate(arrays)]
    body += [f"    _n = table[line * {width} + {width - 1}]"]
    body += ["    _i = cuda.grid(1)", "    _step = cuda.gridsize(1)"]
    names = {*arrays, *(line.partition(" = ")[0] for line in statements)}

    def lines_of(copies: int) -> list[str]:
        each = range(copies)
        made = [f"        {n}_{u} = p_{n}[_i + {u} * _step]" for u in each for n in arrays]
        made += [f"        {_numbered(line, names, u)}" for u in each for line in statements]
        return made + [
            f"        p_{n}[_i + {u} * _step] = {v}_{u}" for u in each for n, v in stores
        ]

    body += _strided(together([(n, dtype) for n in arrays]), lines_of, "_n", "_step")
    parameters = ["a_table", *(f"a_{n}" if kind else f"number_{n}" for n, kind in numbers)]
    return prologue(dtype, statements) + _kernel(parameters, body)


_SEGMENTS = """def kernel(count, width, a_target, a_start, a_order, a_g, a_z):
    target = i64_at(a_target)
    start = i64_at(a_start)
    order = i64_at(a_order)
    g = {kind}_at(a_g)
    z = {kind}_at(a_z)
    w = cuda.grid(1)
    while w < count * width:
        s = w // width
        c = w - s * width
        total = {kind}(z[target[s] * width + c])
        k = start[s]
        while k < start[s + 1]:
            total = total + g[order[k] * width + c]
            k += 1
        z[target[s] * width + c] = total
        w += cuda.gridsize(1)
"""


@functools.cache
def segments(dtype: str) -> str:
    """Sums of rows of g by segment, in their order: `kernel(count, width, ...)`.

    Segment s adds to row target[s] of z the rows order[k] of g, k from start[s] to start[s + 1].
    """
    return prologue(dtype, ["x"]) + _SEGMENTS.format(kind=C_TYPE[dtype][0])
