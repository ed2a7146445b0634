"""Where tensors live: `device("cpu")`; a GPU that is not there is one clear sentence."""

from typing import Any

TYPES = ("cpu", "cuda", "ipu", "xpu", "mkldnn", "opengl", "opencl", "ideep", "hip", "ve", "fpga",
         "maia", "xla", "lazy", "vulkan", "mps", "meta", "hpu", "mtia",
         "privateuseone")  # fmt: skip


class device:
    """A device: `device("cpu")`, `device("cuda:0")`, `device("cuda", 1)`.

    Raises:
        RuntimeError: for a type that PyTorch does not know, or a malformed index.
    """

    __slots__ = ("index", "type")

    type: str
    index: int | None

    def __init__(self, type: Any, index: int | None = None) -> None:
        if isinstance(type, device):
            type, index = type.type, type.index
        elif isinstance(type, int):
            type, index = "cuda", type
        name, colon, number = str(type).partition(":")
        if name not in TYPES:
            raise RuntimeError(
                f"Expected one of {', '.join(TYPES)} device type at start of device string: {name}"
            )
        if colon:
            if index is not None:
                raise RuntimeError(
                    "type (string) must not include an index because index was passed "
                    f"explicitly: {type}"
                )
            if not number.isdigit():
                raise RuntimeError(f"Invalid device string: '{type}'")
            index = int(number)
        self.type = name
        self.index = index

    def __repr__(self) -> str:
        at = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{at})"

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __enter__(self) -> "device":
        """Make tensors here if nothing is said, until the block ends."""
        _before.append(default[0])
        default[0] = check(self)
        return self

    def __exit__(self, *_: object) -> None:
        default[0] = _before.pop()

    def __reduce__(self) -> tuple[Any, ...]:
        return (device, (str(self),))


CPU = device("cpu")
# Where new tensors are made if nothing is said.
default = [CPU]
_before: list[device] = []


def check(place: Any) -> device:
    """The device, if tensors can be made there; a GPU is put to use.

    Raises:
        AssertionError: for a GPU where there is none, as PyTorch's CPU build does, saying why.
        RuntimeError: for any other device than the CPU and a GPU.
    """
    if place is None:
        return default[0]
    if place is CPU:
        return CPU
    chosen = device(place)
    if chosen.type == "cuda":
        reason = gpu("driver").problem()
        if reason:
            raise AssertionError(f"Torch not compiled with CUDA enabled: {reason}")
        return gpu("install").place(chosen.index)  # type: ignore[no-any-return]
    if chosen.type != "cpu":
        raise RuntimeError(f"microtorch has no device of type {chosen.type}: use device('cpu')")
    return CPU


def gpu(name: str) -> Any:
    """A module of the package for GPUs, none of which is loaded before a GPU is asked for."""
    import importlib

    return importlib.import_module("microtorch.gpu." + name)
