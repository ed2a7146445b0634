"""Every function beside PyTorch: one record a function, one test for all of them.

The records are in `data/functions/*.txt`; README.txt there says how they are written.
`python tests/test_functions.py` prints how many functions and samples there are.
"""

import pathlib
import re
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest

import microtorch

DATA = pathlib.Path(__file__).parent / "data" / "functions"
# What there has to be: a record, or a reason in missing.txt.
WANTED = """
add sub mul div floor_divide remainder pow neg abs sign reciprocal sqrt rsqrt square exp expm1 log
log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh sigmoid logit erf erfc relu
leaky_relu elu selu gelu silu softplus softsign hardtanh relu6 clamp maximum minimum where lerp
addcmul addcdiv hypot xlogy logaddexp nan_to_num round floor ceil trunc logical_and logical_or
logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor isnan isinf isfinite isclose
eq ne lt le gt ge
sum mean prod std var median max min amax amin argmax argmin logsumexp norm all any count_nonzero
nansum cumsum cumprod
reshape view view_as flatten squeeze unsqueeze transpose permute movedim t T mT expand expand_as
broadcast_to repeat tile cat stack hstack vstack split chunk unbind flip roll tril triu diag
diagonal narrow select meshgrid contiguous clone detach
getitem setitem gather scatter scatter_add index_select index_add masked_select masked_fill
take_along_dim nonzero sort argsort topk unique bincount searchsorted one_hot
matmul mm bmm mv dot outer addmm baddbmm einsum tensordot linalg.norm linalg.inv linalg.det
linalg.solve linalg.cholesky
linear conv1d conv2d max_pool2d avg_pool2d adaptive_avg_pool2d batch_norm layer_norm embedding
dropout softmax log_softmax normalize cosine_similarity pad scaled_dot_product_attention mse_loss
l1_loss cross_entropy binary_cross_entropy binary_cross_entropy_with_logits nll_loss smooth_l1_loss
huber_loss kl_div hinge_embedding_loss cosine_embedding_loss
zeros ones empty full eye arange linspace logspace tensor zeros_like ones_like empty_like full_like
rand_like randn_like randint_like new_zeros new_ones new_empty new_full new_tensor from_numpy
as_tensor asarray rand randn randint randperm normal bernoulli multinomial
add_ clamp_ zero_ copy_ fill_ uniform_ normal_ data
""".split()


class Sample(NamedTuple):
    """One expression of a record; kind is "", "=" or "!"."""

    name: str
    kind: str
    code: str


def read(text: str) -> list[Sample]:
    """The samples of a file."""
    found: list[Sample] = []
    name = ""
    text = re.sub(r"\\\n\s*", "", text)
    text = re.sub(r"(?<=[,(\[{])\n\s*", " ", text)
    for line in text.split("\n"):
        code = line.strip()
        if not code or code.startswith("#"):
            continue
        if not line.startswith(" "):
            name = code
        else:
            kind = code[0] if code[0] in "=!" else ""
            found.append(Sample(name, kind, code[len(kind) :].strip()))
    return found


SAMPLES = [
    sample
    for path in sorted(DATA.glob("*.txt"))
    if path.stem not in ("README", "missing")
    for sample in read(path.read_text(encoding="utf-8"))
]
MISSING = dict(
    line.split(": ", 1) for line in (DATA / "missing.txt").read_text().splitlines() if line
)


class Operands:
    """What a sample's names mean in one library; the same numbers in each."""

    def __init__(self, torch: Any, dtype: str) -> None:
        self.torch = torch
        self.dtype = dtype
        self.leaves: list[Any] = []
        self.numbers = np.random.default_rng(0)
        self.names = {
            "torch": torch, "x": self.x, "n": self.n, "i": self.i, "b": self.b,
            "T": torch.tensor, "F": getattr(torch, dtype), "np": np, "nan": np.nan,
            "inf": np.inf, "do": lambda f: f(), "keep": lambda x, f: (f(x), x)[1],
        }  # fmt: skip

    def n(self, *shape: int, lo: float = -2, hi: float = 2) -> Any:
        values = self.numbers.uniform(lo, hi, shape).astype(self.dtype)
        return self.torch.tensor(values.tolist(), dtype=getattr(self.torch, self.dtype)).reshape(
            shape
        )

    def x(self, *shape: int, lo: float = -2, hi: float = 2) -> Any:
        leaf = self.n(*shape, lo=lo, hi=hi).requires_grad_()
        self.leaves.append(leaf)
        return leaf

    def i(self, *shape: int, lo: int = 0, hi: int = 4) -> Any:
        values = self.numbers.integers(lo, hi, shape, endpoint=True)
        return self.torch.tensor(values.tolist(), dtype=self.torch.int64).reshape(shape)

    def b(self, *shape: int) -> Any:
        values = self.numbers.integers(0, 1, shape, endpoint=True).astype(bool)
        return self.torch.tensor(values.tolist(), dtype=self.torch.bool).reshape(shape)


def flat(torch: Any, value: Any) -> list[Any]:
    """Tensors and plain values in a result, in order."""
    if isinstance(value, torch.Tensor) or not isinstance(value, (list, tuple, dict)):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [leaf for item in items for leaf in flat(torch, item)]


def plain(torch: Any, value: Any) -> Any:
    """What can be seen of a result, without the library's types."""
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu().numpy()
        return (
            np.array(array),
            str(value.dtype),
            tuple(value.shape),
            # Strides along dimensions of length 1 say nothing.
            tuple(s for s, n in zip(value.stride(), value.shape) if n > 1) * bool(value.numel()),
            value.requires_grad,
        )
    return str(value) if type(value).__module__.startswith(("torch", "microtorch")) else value


def weighted(torch: Any, values: list[Any]) -> Any:
    """A number that depends on every element of the values in another way."""
    total = None
    for v in values:
        weights = np.random.default_rng(v.numel()).uniform(0.5, 1.5, tuple(v.shape))
        weights = torch.tensor(weights.tolist(), dtype=v.dtype).reshape(tuple(v.shape))
        part = (v * weights).sum()
        total = part if total is None else total + part.to(total.dtype)
    return total


def run(torch: Any, sample: Sample, dtype: str) -> dict[str, Any]:
    """Everything that is compared of a sample; an exception counts as a result."""
    operands = Operands(torch, dtype)
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = flat(torch, eval(sample.code, operands.names))
        except Exception as error:
            return {"raised": type(error).__name__, "words": str(error)}
        found["values"] = [plain(torch, r) for r in result]
        if sample.kind == "=":
            return found
        roots = [r for r in result if isinstance(r, torch.Tensor) and r.requires_grad]
        leaves = [leaf for leaf in operands.leaves if leaf.is_leaf]
        if not roots or not leaves:
            return found
        first = torch.autograd.grad(
            weighted(torch, roots), leaves, create_graph=True, allow_unused=True
        )
        found["gradients"] = [None if g is None else g.detach().numpy(force=True) for g in first]
        again = [g for g in first if g is not None and g.requires_grad]
        if dtype == "float32":
            return found
        # A first derivative without a history is constant: its derivatives are zeros.
        second: Any = [None] * len(leaves)
        try:
            if again:
                second = torch.autograd.grad(weighted(torch, again), leaves, allow_unused=True)
        except (RuntimeError, NotImplementedError) as error:
            found["no second"] = str(error)
            return found
        found["second gradients"] = [
            # force: PyTorch has tensors of zeros without memory.
            np.zeros(tuple(leaf.shape)) if g is None else g.detach().numpy(force=True)
            for g, leaf in zip(second, leaves)
        ]
    return found


def same(ours: Any, theirs: Any, tolerance: float, place: str) -> None:
    """Assert that two results are equal, arrays but for the last digits."""
    if isinstance(theirs, np.ndarray):
        assert isinstance(ours, np.ndarray), (place, ours, theirs)
        assert ours.shape == theirs.shape, (place, ours.shape, theirs.shape)
        assert ours.dtype == theirs.dtype, (place, ours.dtype, theirs.dtype)
        if theirs.dtype.kind == "f":
            # Integers are promoted to float32 in every run.
            tolerance = max(tolerance, 2e-5 if theirs.dtype == np.float32 else 0)
            with np.errstate(all="ignore"):
                scale = np.max(np.abs(np.where(np.isfinite(theirs), theirs, 0)), initial=1.0)
            np.testing.assert_allclose(
                ours, theirs, rtol=tolerance, atol=tolerance * scale, err_msg=place
            )
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=place)
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), (place, ours, theirs)
        for k, (mine, other) in enumerate(zip(ours, theirs)):
            same(mine, other, tolerance, f"{place}[{k}]")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-5, nan_ok=True), place
    else:
        assert ours == theirs, (place, ours, theirs)


@pytest.fixture(scope="module")
def pytorch():
    """PyTorch, the oracle."""
    return pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch==2.13.*")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: f"{s.name}: {s.kind}{s.code}"[:90])
def test_sample(pytorch: Any, sample: Sample) -> None:
    for dtype in ("float64", "float32"):
        theirs = run(pytorch, sample, dtype)
        ours = run(microtorch, sample, dtype)
        if sample.kind == "!":
            assert "raised" in theirs, "PyTorch raises nothing"
            assert "raised" in ours, "nothing is raised"
            assert ours["raised"] == theirs["raised"], (ours["words"], theirs["words"])
            continue
        assert "raised" not in theirs, theirs
        assert "raised" not in ours, ours
        tolerance = 1e-9 if dtype == "float64" else 2e-5
        for part, value in theirs.items():
            if part == "no second":
                continue
            if part == "second gradients" and part not in ours and not any(map(np.any, value)):
                continue  # No gradient stands for zeros.
            assert part in ours, (part, ours.get("no second"))
            same(ours[part], value, tolerance, part)


def test_every_function_has_a_record_or_a_reason():
    there = {s.name for s in SAMPLES}
    assert not set(WANTED) - there - MISSING.keys()
    assert not there & MISSING.keys(), "what is there is not missing"


def test_missing_functions_say_so():
    for name in MISSING:
        assert not hasattr(microtorch, name) or "." in name


def counts() -> str:
    """As the README gives them."""
    names = {s.name for s in SAMPLES}
    errors = sum(s.kind == "!" for s in SAMPLES)
    return f"{len(names)} functions, {len(SAMPLES) - errors:,} samples of results, {errors:,} of errors"


def test_readme_gives_these_counts():
    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert counts() in readme.replace("\n", " ")


if __name__ == "__main__":
    print(counts(), "left out:", *MISSING, sep="\n  ")
