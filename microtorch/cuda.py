"""`microtorch.cuda`: says that there is no GPU, in place now so that portable code runs."""

from .errors import unknown_names


def is_available() -> bool:
    """Whether tensors can live on a GPU."""
    return False


def device_count() -> int:
    """Number of GPUs that can be used."""
    return 0


def why_unavailable() -> str:
    """One sentence that says why `is_available()` is False."""
    return "This version of microtorch computes on the CPU only."


def manual_seed(seed: int) -> None:
    """Nothing: there is no GPU whose stream could be seeded, as in PyTorch without one."""


manual_seed_all = manual_seed


__getattr__ = unknown_names(__name__)
