"""Loops as text in the language of `kernels.jit`, one function for the whole program."""

import re

from ..kernels import text
from .fuse import Item, Loop
from .ir import Product, Storage
from .loops import LoopWriter, index
from .names import GET, INDEXES, SET, Names

# A large loop, in all threads; a product of BLAS, whose arguments are words of the table.
_HELPERS = {
    "share": """
def share(t, which, blocks):
    table = i64_at(t)
    s = i64_at(table[0])
    if s[0] < 2 or s[2] == 0 or blocks < 2:
        call(table[1], (t, which, 0, blocks))
    else:
        context = words(5)
        c = i64_at(context)
        c[0] = table[1]
        c[1] = t
        c[2] = which
        c[3] = blocks
        c[4] = table[0]
        call(s[2], (table[2], context, s[0], 0))
""",
    "product": """
def product(t, at, a, b, c, low, high):
    table = i64_at(t)
    d = i64_at(t + 8 * at)
    p = t + 8 * at + 88
    first = low * d[7]
    rows = words(1)
    i64_at(rows)[0] = min(high * d[7], d[8]) - first
    x = table[d[1]] + d[2] + a
    y = table[d[3]] + d[4] + b + first * d[9]
    z = table[d[5]] + d[6] + c + first * d[10]
    call(d[0], (p, p + 8, p + 16, rows, p + 24, p + 32, x, p + 40, y, p + 48, p + 56, z, p + 64))
""",
}
# Words of a product: function, then address and offset of the three, rows of a block, rows, bytes
# between rows of two, then BLAS's letters, columns, depth, 1, two leading dims, 0, leading dim.
SPEC = 20
# Blocks of rows of a product of so many multiplications, which threads share.
PARTS, LARGE_PRODUCT = 8, 8_000_000


class Writer(Names):
    """The text of a program. specs: `(word, product)` of each product's arguments."""

    def __init__(self, items: list[Item], slots: dict[Storage, int]) -> None:
        floats = [r.dtype.name for i in items for r in i.outs if r.dtype.kind == "f"]
        primary = max(sorted(set(floats)), key=floats.count, default="float32")
        parts: list[list[Loop | Product]] = [[]]
        for item in items:
            if isinstance(item, (Loop, Product)):
                parts[-1].append(item)
            else:
                parts.append([])
        super().__init__(slots, primary, len(parts))
        self.specs: list[tuple[int, Product]] = []
        mains = [self._segment(k, part) for k, part in enumerate(parts)]
        self.source = "\n\n".join([*mains, *self.functions])
        self.has_products = [any(isinstance(i, Product) for i in part) for part in parts]

    def _segment(self, number: int, items: list[Loop | Product]) -> str:
        body: list[str] = []
        pointers: set[Storage] = set()
        for item in items:
            if isinstance(item, Loop):
                lines, used = LoopWriter(self, item).lines()
                pointers |= used
            else:
                lines = self._product(item)
            body += lines
        head = [f"def step_{number}(t):", "    table = i64_at(t)"]
        return "\n".join([*head, *self.pointers(pointers), *body]) + "\n"

    def _product(self, op: Product) -> list[str]:
        self.helpers.add("product")
        out, (a, b) = op.outs[0], op.ins
        # C = A B in rows is C' = B' A' in columns, as BLAS has them.
        refs = (b, a, out)
        for ref in refs:
            self.place(ref.storage)
        at = self.words
        self.specs.append((at, op))
        self.words += SPEC
        (n, k), m = op.ins[0].shape[-2:], b.shape[-1]
        names = [self.name(r.storage) for r in (out, a, b)]
        note = f"# {names[0]} = {names[1]} @ {names[2]}: {n} x {k} by {k} x {m}"
        if n * k * m >= LARGE_PRODUCT and n >= 4 * PARTS and len(out.shape) == 2:
            self.helpers.add("share")
            which = self.segments + len(self.functions)
            lines = [f"def loop_{which}(t, low, high):", f"    {note}"]
            lines.append(f"    product(t, {at}, 0, 0, 0, low, high)\n")
            self.functions.append("\n".join(lines))
            return [f"    share(t, {which}, {PARTS})  {note}"]
        lines, indent = [f"    {note}"], "    "
        for d, length in enumerate(out.shape[:-2]):
            lines.append(f"{indent}for {INDEXES[d]} in range({length}):")
            indent += "    "
        size = out.dtype.itemsize
        texts = [index((s * size for s in ref.strides[:-2]), 0) for ref in refs]
        lines.append(f"{indent}product(t, {at}, {', '.join(texts)}, 0, {PARTS})")
        return lines

    def vocabulary(self) -> str:
        """The functions that the source calls, and the entry of the program."""
        parts = [self._renamed(dtype) for dtype in sorted(self.formulas)]
        parts += [_HELPERS[name] for name in sorted(self.helpers)]
        return "".join(parts)

    def complete(self) -> str:
        """All of the text."""
        return self.vocabulary() + self.source + "\n" + self.entry()

    def key(self) -> str:
        """A shorter text that decides the complete one."""
        used = [(dtype, *sorted(formulas)) for dtype, formulas in sorted(self.formulas.items())]
        helpers = [_HELPERS[name] for name in sorted(self.helpers)]
        return repr((text.digest(), used, helpers, self.primary)) + self.source + self.entry()

    def _renamed(self, dtype: str) -> str:
        made = text.prologue(dtype, sorted(self.formulas[dtype]))
        if dtype == self.primary:
            return made
        c_type = text.C_TYPE[dtype][0]
        own = set(re.findall(r"^(?:def )?(\w+)(?= =|\()", made, re.MULTILINE)) | set("FIUD")
        return re.sub(r"[A-Za-z_]\w*", lambda m: m[0] + f"_{c_type}" * (m[0] in own), made)

    def entry(self) -> str:
        """The function that is called: a segment, or some blocks of a large loop."""
        lines = ["def program(t, which, low, high):"]
        word = "if"
        for k, has_products in enumerate(self.has_products):
            lines.append(f"    {word} which == {k}:")
            run = [f"        step_{k}(t)"]
            if has_products:
                # One pool of threads at a time: BLAS's stays asleep.
                run.insert(0, f"        before = call(i64_at(t)[{GET}], ()) & 0xFFFFFFFF")
                run.insert(1, f"        call(i64_at(t)[{SET}], (1,))")
                run.append(f"        call(i64_at(t)[{SET}], (before,))")
            lines += run
            word = "elif"
        for k in range(len(self.functions)):
            which = self.segments + k
            lines += [f"    elif which == {which}:", f"        loop_{which}(t, low, high)"]
        lines.append("    feclearexcept(63)")
        return "\n".join(lines) + "\n"
