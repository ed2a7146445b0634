"""Which names of PyTorch microtorch lacks: the list behind the message of a missing name.

`python tests/test_missing.py` writes the list again, from the PyTorch that is installed.
"""

import importlib
import inspect
import pathlib
import re
import textwrap

import pytest

import microtorch
from microtorch import missing

SPACES = (
    "torch", "torch.Tensor", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.optim",
    "torch.optim.lr_scheduler", "torch.linalg", "torch.autograd", "torch.utils.data",
    "torch.func", "torch.nn.utils", "torch.nn.utils.parametrize",
    "torch.nn.utils.parametrizations", "torch.optim.swa_utils", "torch.compiler",
)  # fmt: skip
# What no program names: parts of PyTorch's inside, and of other devices.
INTERNAL = re.compile(
    "^(quantized|fbgemm|mkldnn|miopen|cudnn|sym_|native_|fake_quantize|fused_|q_|profiler|parse_"
    "|import_ir|conv_tbc|batch_norm_|sparse_resize|.*torch_function|.*_autocast|autocast_"
    "|Tensor$|factory_kwargs|boolean_dispatch|assert_int|.*DataPipe|.*datapipe|DataChunk|.*runtime"
    "|argument_v|.*determinis|init_num|get_file|get_device_m|.*_schema|merge_|unify|prepare_m"
    "|hash_tensor|hsmm|hspmm|dsmm|saddmm|spmm|sspaddmm|smm|sum_to_size|as_subclass|module_load"
    "|Profiler|kineto|enforce_|is_(vulkan|xla|xpu|ipu|maia|mtia|mps|mkldnn)|NestedIO|SavedT)"
    "|_copy$|Storage$|Type$|ErrorReport$|Annotator$|Base$|Error$|_backward_weights$|_weight"
)
MODULES = (
    "amp distributed distributions export fft futures fx hub jit multiprocessing onnx "
    "profiler quantization sparse special"
).split()
HEAD = '''"""Names of PyTorch 2.13 that microtorch lacks, by namespace: read to word an error.

Written by `python tests/test_missing.py`.
"""

# fmt: off
NAMES = {
'''


def place(library, space):
    """A namespace of one of the two libraries."""
    name = space.replace("torch", library.__name__, 1)
    return library.Tensor if space == "torch.Tensor" else importlib.import_module(name)


def lacking(pytorch, space):
    """PyTorch's functions and classes of a namespace that microtorch's has not."""
    theirs, mine = place(pytorch, space), place(microtorch, space)

    def counts(name):
        if space == "torch" and name in MODULES:
            return True
        value = inspect.getattr_static(theirs, name)
        if name.startswith("_") or hasattr(mine, name) or inspect.ismodule(value):
            return False
        if space == "torch" and (name[0].isupper() or name.endswith("_")):
            return False
        home = getattr(value, "__module__", "torch") or "torch"
        if INTERNAL.search(name) or (inspect.isclass(value) and home.startswith("torch._C")):
            return False
        return (callable(value) or space == "torch.Tensor") and home.startswith("torch")

    names = {*dir(theirs), *(MODULES if space == "torch" else ())}
    return [n for n in sorted(names) if counts(n)]


def written(pytorch):
    """The text of the list."""
    text = HEAD
    for space in SPACES:
        lines = textwrap.wrap(" ".join(lacking(pytorch, space)), 95, break_on_hyphens=False)
        text += f'    "{space}": frozenset(\n        """\n'
        text += "".join(line + "\n" for line in lines) + '""".split()\n    ),\n'
    return text + "}\n"


def test_the_list_names_nothing_that_is_there():
    for space, names in missing.NAMES.items():
        mine = place(microtorch, space)
        assert not [n for n in names if hasattr(mine, n)], space


def test_the_list_is_complete():
    pytorch = pytest.importorskip("torch", reason="the list is made from PyTorch")
    for space in SPACES:
        assert set(lacking(pytorch, space)) <= missing.NAMES[space], space


if __name__ == "__main__":
    import torch

    pathlib.Path(missing.__file__).write_text(written(torch), encoding="utf-8")
