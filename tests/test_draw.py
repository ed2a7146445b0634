"""Pictures of graphs: what is in them, that nothing overlaps, and every format."""

import re
import subprocess
import sys

import pytest

import microtorch as mt
from microtorch import nn
from microtorch.drawing import Drawing, draw
from microtorch.drawing_layout import Layout


@pytest.fixture(autouse=True)
def no_graphviz(monkeypatch):
    """What is drawn without the dot program."""
    monkeypatch.setattr("shutil.which", lambda name: None)


def micrograd_example():
    """The graph of micrograd's README."""
    a = mt.Value(-4.0, label="a")
    b = mt.Value(2.0, label="b")
    c = a + b
    d = a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + (b + a).relu()
    d += 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    g += 10.0 / f
    g.label = "g"
    g.backward()
    return g


def network_loss():
    """The loss of a small network after backward, and the network."""
    mt.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    loss = nn.MSELoss()(net(mt.randn(16, 4)), mt.zeros(16, 1))
    loss.backward(retain_graph=True)
    return loss, net


def test_a_value_is_drawn_as_by_micrograd():
    a, b = mt.Value(2.0, label="a"), mt.Value(-3.0, label="b")
    c = a * b
    c.backward()
    drawing = draw(c)
    assert [box.lines for box in drawing.boxes] == [
        ["a", "data 2.0000", "grad -3.0000"],
        ["b", "data -3.0000", "grad 2.0000"],
        ["*"],
        ["data -6.0000", "grad 1.0000"],
    ]
    assert 'label="a | data 2.0000 | grad -3.0000" shape=record' in drawing.dot
    assert drawing.dot.count("->") == 3


def test_numbers_stand_beside_the_op():
    assert [box.lines[0] for box in draw(mt.Value(2.0) ** 3 + 1).boxes if box.kind == "op"] == [
        "** 3",
        "+ 1",
    ]


def test_a_tensor_shows_ops_shapes_values_and_gradients():
    w = mt.ones(2, 3, requires_grad=True)
    x = mt.tensor([1.0, 2.0, 3.0])
    loss = (w.exp() * x).sum()
    loss.backward(retain_graph=True)
    lines = [box.lines for box in draw(loss, {"w": w}).boxes]
    assert lines[0][:2] == ["w", "[2, 3]"] and lines[0][-1].startswith("grad 2.72 to 8.15")
    assert [line[0] for line in lines[1:]] == ["Exp", "Mul", "Sum", "32.62"]
    assert lines[1][1] == "[2, 3]"


def test_names_come_from_a_module():
    loss, net = network_loss()
    names = {box.lines[0] for box in draw(loss, net).boxes if box.kind == "leaf"}
    assert names == {f"{k}.{n}" for k in (0, 2, 4) for n in ("weight", "bias")}


def test_values_and_tensors_in_one_graph():
    v = mt.Value(2.0, label="v")
    loss = (mt.ones(3, requires_grad=True) * v).sum()
    assert {box.kind for box in draw(loss).boxes} == {"leaf", "value", "op", "result"}


def test_leaves_alone_and_freed_graphs():
    assert len(draw(mt.ones(2)).boxes) == 1
    assert len(draw(mt.Value(1.0)).boxes) == 1
    x = mt.ones(2, requires_grad=True)
    loss = (x * x).sum()
    loss.backward()
    assert [box.kind for box in draw(loss).boxes] == ["leaf", "op", "op", "result"]


@pytest.mark.parametrize("make", [micrograd_example, lambda: network_loss()[0], lambda: mt.ones(2)])
@pytest.mark.parametrize("format", ["svg", "png", "pdf", "dot"])
def test_every_format(make, format, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"graph.{format}"
    draw(make()).save(path)
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "dot": b"digraph"}[format]
    assert path.read_bytes().startswith(start)


def test_notebooks_get_svg():
    pytest.importorskip("matplotlib")
    assert "<svg" in draw(micrograd_example())._repr_svg_()


def test_graphviz_draws_where_it_is_installed(monkeypatch):
    calls = []

    def run(command, **options):
        calls.append((command, options["input"]))
        return subprocess.CompletedProcess(command, 0, b"<svg/>")

    monkeypatch.setattr("shutil.which", lambda name: "/bin/" + name)
    monkeypatch.setattr("subprocess.run", run)
    drawing = draw(mt.Value(1.0) * 2)
    assert drawing._repr_svg_() == "<svg/>"
    assert calls == [(["/bin/dot", "-Tsvg"], drawing.dot.encode())]


def test_what_is_refused(tmp_path):
    with pytest.raises(TypeError, match="must be Tensor or Value, not list"):
        draw([1])
    with pytest.raises(ValueError, match="unknown format 'gif': use svg, png, pdf, dot"):
        draw(mt.ones(2)).save(tmp_path / "graph.gif")
    x = y = mt.ones(1, requires_grad=True)
    for _ in range(50):
        y = y + x
    with pytest.raises(ValueError, match="51 nodes, more than limit=20"):
        draw(y, limit=20)


def test_labels_are_escaped():
    dot = draw(mt.Value(1.0, label='a|"<b>')).dot
    assert r"a\|\"\<b\>" in dot


def overlaps(layout, sizes):
    boxes = [
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        for (x, y), (w, h) in zip(layout.places, sizes, strict=True)
    ]
    return [
        (a, b)
        for k, a in enumerate(boxes)
        for b in boxes[:k]
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


@pytest.mark.parametrize("width", [1, 5, 60])
def test_wide_and_long_graphs_do_not_overlap(width):
    sizes, edges = [], []
    for k in range(width):
        sizes += [(1.0, 0.5), (0.5, 0.3), (2.0, 0.7)]
        edges += [(3 * k, 3 * k + 1), (3 * k + 1, 3 * k + 2)]
        if k:
            edges += [(3 * k - 1, 3 * k + 1), (0, 3 * k + 2)]
    layout = Layout(sizes, edges)
    assert not overlaps(layout, sizes)
    right, top = layout.size
    for (x, y), (w, h) in zip(layout.places, sizes, strict=True):
        assert 0 < x - w / 2 and x + w / 2 < right and 0 < y - h / 2 and y + h / 2 < top
    assert all(layout.places[a][0] < layout.places[b][0] for a, b in edges)
    assert len(layout.routes) == len(set(edges))


def test_matplotlib_is_imported_by_drawing_alone():
    code = "import microtorch, sys; microtorch.draw(microtorch.ones(2)); print('matplotlib' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "False"
    assert isinstance(mt.draw(mt.ones(1)), Drawing)
    assert re.match("digraph", mt.draw(mt.ones(1)).dot)


def test_a_picture_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'microtorch\[demos\]'"):
        mt.draw(mt.ones(2, requires_grad=True).sum())._repr_svg_()
