"""`torch.utils.data`: datasets, samplers and loaders, in this process.

Orders come from the same draws as PyTorch's, so one seed gives the same batches.
"""

import bisect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import cuda
from ..dtypes import float64
from ..errors import unknown_names
from ..functions.cat import stack
from ..functions.creation import as_tensor, empty, tensor
from ..functions.random import multinomial, randint, randperm
from ..random import Generator
from ..tensor import Tensor


class Dataset:
    """Examples by number: override `__getitem__` and `__len__`."""

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError("Subclasses of Dataset should implement __getitem__.")

    def __add__(self, other: "Dataset") -> "ConcatDataset":
        return ConcatDataset([self, other])


class IterableDataset(Dataset):
    """Examples one after the other: override `__iter__`."""

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError("Subclasses of IterableDataset should implement __iter__.")


class TensorDataset(Dataset):
    """Tensors of one first dimension; an example is a tuple of their slices."""

    def __init__(self, *tensors: Tensor) -> None:
        if any(len(t) != len(tensors[0]) for t in tensors):
            raise AssertionError("Size mismatch between tensors")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])


class Subset(Dataset):
    """The examples of a dataset at some numbers."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset):
    """Datasets one after the other."""

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise AssertionError("datasets should not be an empty iterable")
        self.cumulative_sizes = list(itertools.accumulate(map(len, self.datasets)))

    def __getitem__(self, index: int) -> Any:
        if index < 0:
            if -index > len(self):
                raise ValueError("absolute value of index should not exceed dataset length")
            index += len(self)
        k = bisect.bisect_right(self.cumulative_sizes, index)
        return self.datasets[k][index - (self.cumulative_sizes[k - 1] if k else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


def random_split(
    dataset: Any, lengths: Sequence[int | float], generator: Generator | None = None
) -> list[Subset]:
    """Parts of a dataset in random order; lengths are numbers of examples or fractions of 1.

    Raises:
        ValueError: if the lengths do not add up.
    """
    total = len(dataset)
    sizes = [int(n) for n in lengths]
    if np.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        if any(not 0 <= n <= 1 for n in lengths):
            raise ValueError("Fractions must be between 0 and 1")
        sizes = [int(total * n) for n in lengths]
        for k in range(total - sum(sizes)):
            sizes[k % len(sizes)] += 1
    if sum(sizes) != total:
        raise ValueError("Sum of input lengths does not equal the length of the input dataset!")
    order = randperm(total, generator=generator).tolist()
    ends = itertools.accumulate(sizes)
    return [Subset(dataset, order[end - n : end]) for end, n in zip(ends, sizes, strict=True)]


# -------------------------------------------------------------------------------- samplers
class Sampler:
    """Numbers of examples, in an order: override `__iter__`."""

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError


class SequentialSampler(Sampler):
    """0, 1, 2 ..."""

    def __init__(self, data_source: Any) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler):
    """A random order, or draws with replacement."""

    def __init__(
        self, data_source: Any, replacement: bool = False, num_samples: int | None = None,
        generator: Generator | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement should be a boolean value, but got {replacement=}")
        if num_samples is not None and (not isinstance(num_samples, int) or num_samples <= 0):
            raise ValueError(
                f"num_samples should be a positive integer value, but got num_samples={num_samples}"
            )
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator

    @property
    def num_samples(self) -> int:
        """How many numbers an iteration gives."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n, left = len(self.data_source), self.num_samples
        # PyTorch draws a seed for a stream of its own, unless a generator is given.
        source = self.generator or Generator().manual_seed(_int64(None))
        while left:
            count = min(left, 32 if self.replacement else n)
            if self.replacement:
                drawn = randint(0, n, (32 if left > 32 else left % 32 or 32,), generator=source)
                yield from drawn.tolist()[:count]
            else:
                yield from randperm(n, generator=source).tolist()[:count]
            left -= count

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler):
    """Some numbers in random order."""

    def __init__(self, indices: Sequence[int], generator: Generator | None = None) -> None:
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        for i in randperm(len(self.indices), generator=self.generator).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler):
    """Numbers drawn in proportion to weights."""

    def __init__(
        self, weights: Any, num_samples: int, replacement: bool = True,
        generator: Generator | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples <= 0:
            raise ValueError(
                f"num_samples should be a positive integer value, but got num_samples={num_samples}"
            )
        if not isinstance(replacement, bool):
            raise ValueError(
                f"replacement should be a boolean value, but got replacement={replacement}"
            )
        self.weights = as_tensor(weights, dtype=float64)
        if self.weights.ndim != 1:
            raise ValueError(
                "weights should be a 1d sequence but given weights have shape "
                f"{tuple(self.weights.shape)}"
            )
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        drawn = multinomial(
            self.weights, self.num_samples, self.replacement, generator=self.generator
        )
        return iter(drawn.tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler):
    """The numbers of a sampler in lists of `batch_size`."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size <= 0:
            raise ValueError(
                f"batch_size should be a positive integer value, but got batch_size={batch_size}"
            )
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        numbers = iter(self.sampler)
        while batch := list(itertools.islice(numbers, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        count = len(self.sampler)  # type: ignore[arg-type]
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)


def _int64(generator: Generator | None) -> int:
    """One integer from 0 to 2**63 - 1, as PyTorch draws seeds."""
    return int(empty((), dtype=tensor(0).dtype).random_(generator=generator).item())  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------- loader
def default_collate(batch: Sequence[Any]) -> Any:
    """Examples as one batch: tensors, arrays and numbers are stacked, containers entered.

    Raises:
        TypeError: for anything else.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch), 0)
    if isinstance(first, np.ndarray):
        return stack([as_tensor(a) for a in batch], 0)
    if isinstance(first, float):
        return tensor(list(batch), dtype=tensor(np.float64(0)).dtype)
    if isinstance(first, (bool, int, np.generic)):
        return tensor(np.asarray(batch))
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        return {key: default_collate([example[key] for example in batch]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*map(default_collate, zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(example) != len(first) for example in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        return [default_collate(parts) for parts in zip(*batch, strict=True)]
    raise TypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
        f"found {type(first)}"
    )


def _examples(dataset: Any, numbers: Sequence[Any]) -> Any:
    """Several examples: at once where a dataset has `__getitems__`."""
    several = getattr(dataset, "__getitems__", None)
    return several(numbers) if several else [dataset[i] for i in numbers]


def _collated(dataset: Any, numbers: Sequence[Any]) -> list[Tensor] | None:
    """What `default_collate` makes of some examples of tensors, by one indexing of each.

    None where examples may be something else.
    """
    while type(dataset) is Subset:
        dataset, numbers = dataset.dataset, [dataset.indices[i] for i in numbers]
    if type(dataset) is not TensorDataset or any(type(i) is not int for i in numbers):
        return None
    if any(type(t) is not Tensor or t.requires_grad for t in dataset.tensors):
        return None
    places = tensor(numbers)
    return [t[places] for t in dataset.tensors]


def get_worker_info() -> None:
    """What a dataset asks in order to give each worker its share: None, as there are no workers."""


def _pinned(batch: Any) -> Any:
    """A batch with its tensors in page-locked memory, for a GPU to copy from by itself."""
    if hasattr(batch, "pin_memory"):
        return batch.pin_memory()
    if isinstance(batch, Mapping):
        return {key: _pinned(part) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(_pinned, batch))
    return list(map(_pinned, batch)) if isinstance(batch, (list, tuple)) else batch


class DataLoader:
    """Batches of a dataset, loaded in this process whatever `num_workers` says.

    Each iteration draws PyTorch's base seed first, so that what follows is the same stream.

    Raises:
        ValueError: for arguments that exclude each other.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Any = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        **options: Any,
    ) -> None:
        if num_workers < 0:
            raise ValueError(
                "num_workers option should be non-negative; use num_workers=0 to disable "
                "multiprocessing."
            )
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler or drop_last):
            raise ValueError(
                "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and "
                "drop_last"
            )
        if batch_size is None and drop_last:
            raise ValueError(
                "batch_size=None option disables auto-batching and is mutually exclusive with "
                "drop_last"
            )
        self._in_turn = isinstance(dataset, IterableDataset)
        if self._in_turn and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError(
                "DataLoader with IterableDataset: expected unspecified shuffle, sampler and "
                "batch_sampler options"
            )
        if sampler is None and not self._in_turn:
            chosen = RandomSampler(dataset, generator=generator) if shuffle else None
            sampler = chosen or SequentialSampler(dataset)
        if batch_size is not None and batch_sampler is None and not self._in_turn:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset = dataset
        self.batch_size = batch_size
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.generator = generator
        self.collate_fn = collate_fn or (default_collate if batch_size else lambda x: x)
        self.pin_memory = pin_memory

    def __iter__(self) -> Iterator[Any]:
        _int64(self.generator)
        pins = self.pin_memory and cuda.is_available()
        return map(_pinned, self._batches()) if pins else self._batches()

    def _batches(self) -> Iterator[Any]:
        if self._in_turn:
            examples = iter(self.dataset)
            if self.batch_size is None:
                yield from map(self.collate_fn, examples)
                return
            while batch := list(itertools.islice(examples, self.batch_size)):
                if len(batch) == self.batch_size or not self.drop_last:
                    yield self.collate_fn(batch)
        elif self.batch_sampler is None:
            for number in self.sampler:
                yield self.collate_fn(self.dataset[number])
        else:
            usual = self.collate_fn is default_collate
            for numbers in self.batch_sampler:
                collated = _collated(self.dataset, numbers) if usual else None
                yield collated or self.collate_fn(_examples(self.dataset, numbers))

    def __len__(self) -> int:
        if self._in_turn:
            count = len(self.dataset)
            if self.batch_size is None:
                return count
            return count // self.batch_size if self.drop_last else -(-count // self.batch_size)
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)


# PyTorch's import paths, as other names of this module.
dataset = sampler = dataloader = sys.modules[__name__]
for _name in ("dataset", "sampler", "dataloader"):
    sys.modules[f"{__name__}.{_name}"] = dataset

__getattr__ = unknown_names(__name__)
