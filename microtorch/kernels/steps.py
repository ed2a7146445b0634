"""Updates of optimizers -> kernel source text."""

from ..table import Step
from .text import C_TYPE, prologue, typed


def step(row: Step, dtype: str) -> str:
    """The update of many parameters: `loop(table, count, numbers, unused)`.

    table: `count` lines of words: for each array the address of a pointer to its elements, then
    the number of elements; numbers: the row's numbers as float64. A line's arrays are distinct,
    contiguous and of one length.
    """
    pointer = C_TYPE[dtype][0]
    written = [n for n in row.arrays if any(line.startswith(n + " = ") for line in row.statements)]
    lines = ["def loop(table, count, numbers, unused):", "    h = f64_at(numbers)"]
    lines += [f"    {name} = F(h[{k}])" for k, name in enumerate(row.numbers)]
    lines += [
        "    t = i64_at(table)",
        "    for line in range(count):",
        f"        at = line * {len(row.arrays) + 1}",
    ]
    lines += [
        f"        p_{n} = {pointer}_at(i64_at(t[at + {k}])[0])" for k, n in enumerate(row.arrays)
    ]
    lines += [f"        for i in range(t[at + {len(row.arrays)}]):"]
    lines += [f"            {n} = p_{n}[i]" for n in row.arrays]
    lines += [f"            {typed(line)}" for line in row.statements]
    lines += [f"            p_{n}[i] = {n}" for n in written]
    return prologue(dtype, row.statements) + "\n".join(lines) + "\n"
