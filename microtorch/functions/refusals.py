"""What PyTorch refuses of a row's operands: bools, integers, half precision."""

from .. import dtypes
from ..table import Row

# Rows that refuse bools, with the names that PyTorch's kernels have in the message.
_NO_BOOLS = {
    "abs": "abs_cpu", "floor": "floor_vml_cpu", "ceil": "ceil_vml_cpu", "round": "round_vml_cpu",
    "trunc": "trunc_vml_cpu", "clamp": "clamp_scalar_cpu", "clamp_min": "clamp_min_scalar_cpu",
    "clamp_max": "clamp_max_scalar_cpu",
}  # fmt: skip
# Kernels whose names are not those of their rows.
_KERNELS = {
    "selu": "elu_cpu", "celu": "elu_cpu", "gelu": "GeluKernelImpl", "gelu_tanh": "GeluKernelImpl",
    "logsigmoid": "log_sigmoid_cpu", "softplus_beta": "softplus_cpu",
}  # fmt: skip


def check_dtype(row: Row, result: dtypes.dtype, bools: int) -> dtypes.dtype:
    """The dtype that a row computes in, given that of its operands and how many are bool tensors.

    Raises:
        RuntimeError, NotImplementedError: for a dtype that PyTorch refuses.
    """
    name = row.name
    if result is dtypes.float16:
        raise not_implemented(f"{name}_cpu", result)
    if row.types == "real" and not result.is_floating_point:
        raise not_implemented(_KERNELS.get(name, f"{name}_cpu"), result)
    if bools and name in ("sub", "rsub", "neg"):
        raise _negative_bools(name, bools)
    if result is dtypes.bool:
        if name in _NO_BOOLS:
            raise not_implemented(_NO_BOOLS[name], result)
        if name in ("relu", "hardtanh"):
            kind = "Boolean" if name == "relu" else "Bool"
            raise RuntimeError(f"{kind} inputs not supported for {name}")
        if name == "square":
            return dtypes.int64
    return result


def not_implemented(kernel: str, dtype: dtypes.dtype) -> NotImplementedError:
    """The error for a dtype that a kernel does not know."""
    return NotImplementedError(f"\"{kernel}\" not implemented for '{dtype.short}'")


def _negative_bools(name: str, count: int) -> RuntimeError:
    sign = "Negation" if name == "neg" else "Subtraction"
    many = "on" if name == "neg" else "with"
    which = "two bool tensors" if count == 2 else "a bool tensor"
    remedy = (
        "Use the `^` or `logical_xor()` operator instead."
        if count == 2
        else "If you are trying to invert a mask, use the `~` or `logical_not()` operator instead."
    )
    return RuntimeError(f"{sign}, the `-` operator, {many} {which} is not supported. {remedy}")
