"""Views, in-place changes and version counters as in PyTorch 2.13.

`data/views.txt` holds programs, separated by empty lines; `#` lines say what they are about. Each
line runs under both libraries, also after one that raised. Compared are what each line raised, and
in the end every variable: elements, gradient, version, place in the graph, name of the node.
"""

import pathlib

import pytest
from programs import difference, text

FILE = pathlib.Path(__file__).parent / "data" / "views.txt"
PROGRAMS = [
    [line for line in block.split("\n") if line and not line.startswith("#")]
    for block in FILE.read_text(encoding="utf-8").split("\n\n")
]
PROGRAMS = [program for program in PROGRAMS if program]


@pytest.fixture(scope="module")
def pytorch():
    """PyTorch, the oracle."""
    return pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: " | ".join(p)[:70])
def test_program(program, pytorch):
    found = difference(program, pytorch, closely=True)
    assert not found, f"{text(program)}\n{found}"


def test_there_are_enough():
    assert len(PROGRAMS) >= 60
