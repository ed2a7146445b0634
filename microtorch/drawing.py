"""Pictures of graphs: `draw(loss)` shows itself in a notebook, `draw(loss).save("loss.svg")`.

Leaves are boxes with shape, value and gradient, operations are ovals. Scalar graphs look like
micrograd's: `label | data | grad` and a circle an operation. Graphviz's `dot` draws where it is
installed, else matplotlib with the layers of `layout` below.
"""

import io
import pathlib
import shutil
import subprocess
from typing import Any

import numpy as np

from .drawing_layout import Layout
from .errors import argument_error
from .graph.engine import topological
from .graph.node import Node
from .tensor import Tensor
from .value import Value

FORMATS = ("svg", "png", "pdf", "dot")
COLORS = {"leaf": "#dbe9f6", "result": "#fde8cd", "op": "#eeeeee", "value": "#ffffff"}


class Box:
    """One vertex of a picture: its lines of text, what it is, and what it comes from."""

    __slots__ = ("kind", "lines", "parents")

    def __init__(self, kind: str, lines: list[str], parents: "list[Box]") -> None:
        self.kind = kind
        self.lines = lines
        self.parents = parents


def draw(output: Any, params: Any = None, *, limit: int = 1000) -> "Drawing":
    """The graph behind a Tensor or a Value, as a picture.

    params: names of leaves: a Module, or a dict from name to tensor. Values of intermediate results
    are shown where the graph has saved them.

    Raises:
        TypeError: for anything but a Tensor or a Value.
        ValueError: for a graph of more than `limit` nodes.
    """
    if not isinstance(output, (Tensor, Value)):
        raise argument_error("draw", "output", 1, "Tensor or Value", output)
    named = params.named_parameters() if hasattr(params, "named_parameters") else params
    names = {id(t): name for name, t in dict(named or {}).items()}
    return Drawing(_boxes(output, names, limit))


def _boxes(output: Any, names: dict[int, str], limit: int) -> list[Box]:
    """The vertices of a graph, each after those it comes from."""
    root = output if isinstance(output, Value) or output.is_leaf else output._node
    nodes, leaves = topological([root])
    if len(nodes) + len(leaves) > limit:
        raise ValueError(
            f"the graph has {len(nodes) + len(leaves)} nodes, more than limit={limit}: draw a part "
            "of it, or raise the limit"
        )
    made = {leaf: Box("leaf", _tensor_lines(leaf, names), []) for leaf in leaves}
    known = _known_arrays(nodes)
    ordered = list(made.values())
    for node in reversed(nodes):
        parents = [made[p] for p in node.parents if p is not None]
        if isinstance(node, Value):
            if parents:
                numbers: tuple[float, ...] = node.numbers
                text = [node.op.symbol, *(f"{number:g}" for number in numbers)]
                parents = [Box("op", [" ".join(text)], parents)]
                ordered += parents
            box = Box("value", _value_lines(node), parents)
        else:
            lines = [node.name().partition("Backward")[0] or "op"]
            if node in known and node is not root:
                lines += _array_lines(known[node])
            box = Box("op", lines, parents)
        made[node] = box
        ordered.append(box)
    if root is not output:
        ordered.append(Box("result", _tensor_lines(output, names), [made[root]]))
    return ordered


def _known_arrays(nodes: list[Node]) -> dict[Node, Any]:
    """Results that some node has saved."""
    found: dict[Node, Any] = {}
    for node in nodes:
        saved = node.saved or ()
        for s in saved:
            if isinstance(s, Tensor) and isinstance(s._node, Node):
                found[s._node] = s._array
        if saved and node.op.saves_result and isinstance(saved[-1], np.ndarray):
            found[node] = saved[-1]
    return found


def _value_lines(value: Value) -> list[str]:
    lines = [f"data {value.data:.4f}", f"grad {value.grad:.4f}"]
    label = getattr(value, "label", "")
    return [label, *lines] if label else lines


def _tensor_lines(t: Tensor, names: dict[int, str]) -> list[str]:
    lines = [names[id(t)]] if id(t) in names else []
    lines += _array_lines(t._array)
    if t._grad is not None:
        lines.append("grad " + _numbers(t._grad._array))
    return lines


def _array_lines(a: Any) -> list[str]:
    return [f"{list(a.shape)}", _numbers(a)] if a.ndim else [_numbers(a)]


def _numbers(a: Any) -> str:
    """Few elements as they are, many by their range."""
    if a.size == 0:
        return "empty"
    if a.size <= 4:
        text = ", ".join(f"{v:.4g}" for v in a.ravel().tolist())
        return text if a.ndim == 0 else f"[{text}]"
    return f"{a.min():.3g} to {a.max():.3g}"


class Drawing:
    """A picture of a graph: shown by notebooks, saved as svg, png, pdf or dot."""

    def __init__(self, boxes: list[Box]) -> None:
        self.boxes = boxes

    @property
    def dot(self) -> str:
        """The graph in Graphviz's language."""
        number = {id(box): k for k, box in enumerate(self.boxes)}
        lines = ["digraph {", "  rankdir=LR;", '  node [fontname="monospace" fontsize=10];']
        for box in self.boxes:
            text = [_escaped(line) for line in box.lines]
            if box.kind == "value":
                shape, label = "record", " | ".join(text)
            else:
                shape, label = ("ellipse" if box.kind == "op" else "box"), "\\n".join(text)
            style = f'shape={shape} style=filled fillcolor="{COLORS[box.kind]}"'
            lines.append(f'  n{number[id(box)]} [label="{label}" {style}];')
        lines += [
            f"  n{number[id(parent)]} -> n{number[id(box)]};"
            for box in self.boxes
            for parent in box.parents
        ]
        return "\n".join([*lines, "}"]) + "\n"

    def render(self, format: str) -> bytes:
        """The picture as the contents of a file.

        Raises:
            ValueError: for a format that is not svg, png, pdf or dot.
        """
        if format not in FORMATS:
            raise ValueError(f"unknown format {format!r}: use {', '.join(FORMATS)}")
        if format == "dot":
            return self.dot.encode()
        program = shutil.which("dot")
        if program is not None:
            command = [program, f"-T{format}"]
            return subprocess.run(
                command, input=self.dot.encode(), capture_output=True, check=True
            ).stdout
        return _by_matplotlib(self.boxes, format)

    def save(self, path: Any) -> None:
        """Write the picture to a file, in the format of its ending.

        Raises:
            ValueError: for an ending that is not svg, png, pdf or dot.
        """
        path = pathlib.Path(path)
        path.write_bytes(self.render(path.suffix[1:].lower()))

    def _repr_svg_(self) -> str:
        return self.render("svg").decode()


def _escaped(line: str) -> str:
    for character in '\\"<>{}|':
        line = line.replace(character, "\\" + character)
    return line


def _by_matplotlib(boxes: list[Box], format: str) -> bytes:
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
        from matplotlib.path import Path
    except ImportError:
        raise ImportError(
            "a picture of a graph needs matplotlib: pip install 'microtorch[demos]'. "
            "The text for Graphviz (.dot) needs nothing."
        ) from None

    layout = Layout([_size(box) for box in boxes], _edges(boxes))
    width, height = layout.size
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    for points in layout.routes:
        codes = [Path.MOVETO, *[Path.CURVE4] * (len(points) - 1)]
        axes.add_patch(
            FancyArrowPatch(
                path=Path(points, codes),
                arrowstyle="-|>",
                mutation_scale=8,
                lw=0.8,
                color="#555555",
                shrinkA=0,
                shrinkB=0,
                zorder=1,
            )
        )
    for box, (x, y) in zip(boxes, layout.places, strict=True):
        w, h = _size(box)
        round_by = min(w, h) / 2 if box.kind == "op" else 0.04
        axes.add_patch(
            FancyBboxPatch(
                (x - w / 2, y - h / 2),
                w,
                h,
                boxstyle=f"round,pad=0,rounding_size={round_by}",
                fc=COLORS[box.kind],
                ec="#333333",
                lw=0.8,
                zorder=2,
            )
        )
        if box.kind == "value":
            text = " | ".join(box.lines)
        else:
            text = "\n".join(box.lines)
        axes.text(x, y, text, ha="center", va="center", family="monospace", fontsize=8, zorder=3)
    made = io.BytesIO()
    # Pixels of a png are limited; a picture of many layers gets fewer an inch.
    figure.savefig(made, format=format, dpi=min(120, 30000 / max(width, height)))
    return made.getvalue()


def _size(box: Box) -> tuple[float, float]:
    """Width and height in inches of a box around its text, of 8 points."""
    if box.kind == "value":
        return 0.069 * len(" | ".join(box.lines)) + 0.2, 0.3
    longest = max(map(len, box.lines))
    return max(0.069 * longest + 0.24, 0.34), 0.14 * len(box.lines) + 0.2


def _edges(boxes: list[Box]) -> list[tuple[int, int]]:
    number = {id(box): k for k, box in enumerate(boxes)}
    return [(number[id(p)], k) for k, box in enumerate(boxes) for p in box.parents]
