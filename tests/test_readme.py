"""The README's Python blocks run, and print what their comments say."""

import contextlib
import io
import pathlib
import re

import pytest

TEXT = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    promised = re.findall(r"^print\(.*\)  # (.+)$", block, re.MULTILINE)
    promised += re.findall(r"^# PyTorch prints the same: (.*)$", block, re.MULTILINE)
    assert promised
    assert out.getvalue().split("\n")[: len(promised)] == promised


def test_there_are_blocks():
    assert len(BLOCKS) >= 2
