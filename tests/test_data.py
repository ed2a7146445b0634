"""`utils.data` gives PyTorch's batches for PyTorch's seeds."""

import itertools

import numpy as np
import pytest

import microtorch
from microtorch.utils import data

# Programs of `torch` and `data` that give plain values; the same under both libraries.
PROGRAMS = """
[b[0].tolist() for b in data.DataLoader(data.TensorDataset(torch.arange(23)), 5, shuffle=True)]
[[b[0].tolist() for b in loader] for loader in [data.DataLoader(data.TensorDataset(torch.arange(23)), 5, True)] for _ in range(3)]
[b[0].tolist() for b in data.DataLoader(data.TensorDataset(torch.arange(7)), 3, drop_last=True)]
[list(data.DataLoader(range(5), 2)), torch.rand(2).tolist()]
[b.tolist() for b in data.DataLoader(range(23), 5, True, generator=torch.Generator().manual_seed(3))]
list(data.RandomSampler(range(23)))
list(data.RandomSampler(range(5), num_samples=12))
list(data.RandomSampler(range(23), replacement=True))
list(data.RandomSampler(range(50), replacement=True, num_samples=70))
list(data.RandomSampler(range(50), replacement=True, num_samples=64))
list(data.SubsetRandomSampler([3, 1, 4, 1, 5]))
list(data.WeightedRandomSampler([0.1, 0.9, 0.4, 0.7, 3.0, 0.6], 20))
list(data.WeightedRandomSampler([0.9, 0.4, 0.05, 0.2, 0.3, 0.1], 5, replacement=False))
list(data.WeightedRandomSampler(torch.ones(4), 9, generator=torch.Generator().manual_seed(1)))
len(data.WeightedRandomSampler([1, 2], 7))
[list(part.indices) for part in data.random_split(range(23), [20, 3])]
[list(part.indices) for part in data.random_split(range(10), [0.5, 0.3, 0.2])]
[list(part) for part in data.random_split(range(10), [7, 3], torch.Generator().manual_seed(1))]
[b.tolist() for b in data.DataLoader(data.Subset(range(100, 120), [3, 1, 4]), 2)]
[b for b in data.DataLoader([1, 2, 3], batch_size=None)]
[b for p in data.random_split(data.TensorDataset(torch.arange(9).view(9, 1), torch.rand(9, 2, 3) > 0.5, torch.rand(9)), [6, 3]) for b in data.DataLoader(p, 4, True)]
[b for b in data.DataLoader(data.TensorDataset(torch.arange(5.0)), batch_sampler=[[0, -1], [3, 3], [2]])]
[b for b in data.DataLoader(data.Subset(data.Subset(data.TensorDataset(torch.arange(9)), range(8, 1, -2)), [-1, 0]), 3)]
[(b[0].requires_grad, b[0].tolist()) for b in data.DataLoader(data.TensorDataset(torch.ones(3, requires_grad=True)), 2)]
[b[0] for b in data.DataLoader(data.TensorDataset(torch.arange(6).view(2, 3).T), 2)]
[b for b in data.DataLoader(type("D", (data.Dataset,), {"__len__": lambda s: 5, "__getitems__": lambda s, k: [10 * i for i in k]})(), 2)]
list(data.BatchSampler(data.SequentialSampler(range(7)), 3, False))
[len(data.DataLoader(range(10), 3)), len(data.DataLoader(range(10), 3, drop_last=True))]
[(data.ConcatDataset([range(3), range(10, 12)])[k]) for k in range(-5, 5)]
data.get_worker_info()
data.default_collate([1, 2])
data.default_collate([1.5, 2])
data.default_collate([{"a": torch.ones(2), "b": (1, "x")}] * 2)
data.default_collate([(np.ones(2), 1.0), (np.zeros(2), 2.0)])
[b for b in data.DataLoader([("a", 1), ("b", 2), ("c", 3)], 2)]
[b.tolist() for b in data.DataLoader(type("I", (data.IterableDataset,), {"__iter__": lambda s: iter(range(5))})(), 2)]
""".strip().splitlines()
ERRORS = """
data.DataLoader(range(3), 0)
data.DataLoader(range(3), shuffle=True, sampler=[0])
data.DataLoader(range(3), 2, batch_sampler=[[0]])
data.DataLoader(range(3), num_workers=-1)
data.random_split(range(3), [1, 1])
data.TensorDataset(torch.ones(2), torch.ones(3))
data.default_collate([object()])
data.RandomSampler(range(3), num_samples=0)
data.WeightedRandomSampler([1.0], 0)
data.WeightedRandomSampler([1.0], 1, 1)
data.WeightedRandomSampler([[1.0]], 1)
data.Dataset()[0]
list(data.DataLoader(data.TensorDataset(torch.ones(3)), batch_sampler=[[0, 3]]))
""".strip().splitlines()


def evaluated(torch, library, code, seed):
    torch.manual_seed(seed)
    value = eval(code, {"torch": torch, "data": library, "np": np})
    return repr(value), torch.rand(3).tolist()


@pytest.mark.parametrize("code", PROGRAMS)
def test_programs_beside_pytorch(code):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    from torch.utils import data as theirs

    for seed in range(5):
        mine = evaluated(microtorch, data, code, seed)
        assert mine == evaluated(torch, theirs, code, seed)


@pytest.mark.parametrize("code", ERRORS)
def test_errors_beside_pytorch(code):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    from torch.utils import data as theirs

    for module, library in ((torch, theirs), (microtorch, data)):
        with pytest.raises(Exception) as caught:
            eval(code, {"torch": module, "data": library})
        if module is torch:
            expected = type(caught.value)
    assert type(caught.value) is expected, caught.value


def test_shuffled_epochs_are_the_recorded_ones():
    """PyTorch 2.13 with manual_seed(10): two epochs, then the state of the stream."""
    microtorch.manual_seed(10)
    loader = data.DataLoader(data.TensorDataset(microtorch.arange(7)), 3, shuffle=True)
    epochs = [list(itertools.chain(*(b[0].tolist() for b in loader))) for _ in range(2)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs == RECORDED


RECORDED = [[5, 0, 1, 2, 3, 6, 4], [2, 5, 1, 0, 3, 4, 6]]
