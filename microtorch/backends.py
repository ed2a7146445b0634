"""`torch.backends`: switches of libraries that are not here, so that portable code runs.

Results are the same in every run, whatever they say.
"""

from .errors import unknown_names


class _Backend:
    """A library that is not there; its switches may be set."""

    deterministic = True
    benchmark = False
    enabled = False
    allow_tf32 = False

    def is_available(self) -> bool:
        """Whether the library can be used."""
        return False

    def is_built(self) -> bool:
        """Whether this package was built with it."""
        return False


cudnn = _Backend()
mps = _Backend()
cuda = _Backend()

__getattr__ = unknown_names(__name__)
