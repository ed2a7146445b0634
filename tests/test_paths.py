"""Import paths of PyTorch, and the small modules behind them."""

import collections
import re

import numpy as np
import pytest
from process import run

import microtorch

IMPORTS = """
from torch.optim.lr_scheduler import _LRScheduler, LRScheduler
from torch.nn.modules import Linear, Module, ParameterList
from torch.nn.modules.loss import _Loss, _WeightedLoss, MSELoss
from torch.nn.modules.utils import _pair, _single, _triple, _ntuple
from torch.nn.modules.module import Module
from torch.nn.modules.batchnorm import BatchNorm2d
from torch.nn.modules.conv import Conv2d
from torch.nn.modules.rnn import LSTM
from torch.nn.modules.container import Sequential
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data.dataset import Dataset, TensorDataset, random_split
from torch.utils.data.sampler import Sampler, RandomSampler
from torch.utils.data.dataloader import DataLoader, default_collate
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.testing import assert_close
from torch.types import Number, Device
import torch.nn.modules.loss as loss; loss._Loss
import torch.utils.data.dataset as dataset; dataset.Dataset
import torch; torch.nn.utils.rnn.pad_sequence; torch.nn.modules.utils._pair(3)
import torch; torch.testing.assert_close; torch.types.Number; torch.utils.checkpoint.checkpoint
import torch; torch.utils.data.dataset.Dataset; torch.optim.lr_scheduler._LRScheduler
"""


def test_import_paths(tmp_path):
    lines = IMPORTS.strip().splitlines()
    lines = [re.sub(r"import torch(?=;)", "import microtorch as torch", line) for line in lines]
    lines = [re.sub(r"(from|import) torch\b", r"\1 microtorch", line) for line in lines]
    run("\n".join(lines), tmp_path, "-W", "error")


def test_a_path_leads_to_the_same_class():
    from microtorch.nn.modules.loss import MSELoss
    from microtorch.nn.modules.utils import _pair

    assert MSELoss is microtorch.nn.MSELoss
    assert (_pair(3), _pair([1, 2])) == ((3, 3), (1, 2))


def test_checkpoint_calls():
    from microtorch.utils.checkpoint import checkpoint, checkpoint_sequential

    x = microtorch.ones(2, requires_grad=True)
    checkpoint(lambda a, b: (a * b).sum(), x, 3, use_reentrant=False).backward()
    assert x.grad.tolist() == [3, 3]
    assert checkpoint_sequential([microtorch.exp, microtorch.log], 2, x).tolist() == [1, 1]


PAIRS = """
T([1.0, 2, 3]), T([1.0, 2.5, 3])
T([1.0, 2, 3]), T([1.0, 2, 3])
T([1.0, 2, 3]), T([1.0, 2, 3.0000001])
T([1.0, 2]), T([1.0, 2, 3])
T([1.0]), T([1.0], dtype=torch.float64)
T([1.0]), T([1.0], dtype=torch.float64), dict(check_dtype=False)
T([1, 2]), T([1, 3])
T([True]), T([False])
T([[1.0, 2], [3, 4]]), T([[1.0, 2], [3, 5]]), dict(rtol=0, atol=0)
T([1.0]), T([1.1]), dict(rtol=0.2, atol=0)
T([1.0]), T([1.1]), dict(rtol=0.2)
T([1.0]), T([2.0]), dict(msg="words")
T([1.0]), T([2.0]), dict(msg=lambda text: "before " + text)
T([nan, inf]), T([nan, inf])
T([nan, inf]), T([nan, inf]), dict(equal_nan=True)
T(1.0), T(2.0)
T(nan), T(nan), dict(equal_nan=True)
torch.ones(2, 3), torch.ones(3, 2).t(), dict(check_stride=True)
torch.ones(0), torch.ones(0)
1.0, 1.1
1.0, 1.0 + 1e-9
1, 2
1, 1.0
0, 0
True, False
None, None
None, 1
"a", "a"
[T(1.0), T(2.0)], [T(1.0), T(3.0)]
[1], [1, 2]
(1, [2, 3]), (1, [2, 4])
{"a": 1}, {"b": 1}
{"a": T(1.0)}, {"a": T(2.0)}
T([1.0]), [1.0]
np.ones(2), np.zeros(2)
""".strip().splitlines()


@pytest.mark.parametrize("code", PAIRS)
def test_assert_close_beside_pytorch(code):
    pytorch = pytest.importorskip("torch", reason="parity needs PyTorch")
    found = []
    for torch in (microtorch, pytorch):
        names = {"torch": torch, "T": torch.tensor, "np": np, "nan": np.nan, "inf": np.inf}
        actual, expected, *rest = eval(code, names)
        options = collections.ChainMap(*rest)
        try:
            found.append(torch.testing.assert_close(actual, expected, **options))
        except (AssertionError, TypeError, ValueError) as error:
            text = re.sub(r"'(torch|microtorch.tensor).Tensor'", "Tensor", str(error))
            found.append((type(error), text))
    assert found[0] == found[1]
