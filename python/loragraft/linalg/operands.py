"""What callers hand to the kernels, brought to the form in which the kernels take it."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from loragraft.errors import NonFiniteError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class SupportsDLPack(Protocol):
    """An array of any library that exports its memory, as NumPy and torch do."""

    def __dlpack__(self, *, stream: None = None) -> Any:
        """Return a DLPack capsule over the array's memory."""

    def __dlpack_device__(self) -> tuple[Any, Any]:
        """Return the DLPack type and index of the device that holds the array."""


#: The two factors (B, A) of a product B A that is never formed.
FactorPair: TypeAlias = tuple[SupportsDLPack, SupportsDLPack]

# The DLPack device types whose memory the processor reads: kDLCPU and kDLCUDAHost.
_READABLE = frozenset({1, 3})


def matrices(values: object, name: str) -> NDArray[np.float32]:
    """Return a matrix or a batch of them as finite, C-contiguous float32, copied only if needed.

    Args:
        values: (..., m, n), NumPy array or DLPack exporter.
        name: What to call it in messages.

    Raises:
        UsageError: No array, not on the CPU, not of a real floating type, fewer than two
            dimensions, or an empty matrix.
        NonFiniteError: NaN or Inf, or a float64 value beyond the range of float32.
    """
    array = _as_numpy(values, name)
    _require_real(array.dtype, name)
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise UsageError(
            f"{name} has shape {array.shape}: expected (..., m, n) with m and n at least 1"
        )
    with np.errstate(over="ignore", under="ignore"):
        converted = np.require(array, np.float32, ["C", "A"])
    _require_finite(converted, array, name)
    return converted


def factor_pair(
    values: tuple[object, ...], name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the factors B (..., m, r) and A (..., r, n) of one product, batches made equal.

    Raises:
        UsageError: Not two factors, or shapes that cannot be multiplied; and as for `matrices`.
        NonFiniteError: As for `matrices`.
    """
    if len(values) != 2:
        raise UsageError(f"{name} is a tuple of {len(values)}: expected the two factors (B, A)")
    b, a = matrices(values[0], f"{name}[0] (B)"), matrices(values[1], f"{name}[1] (A)")
    if b.shape[-1] != a.shape[-2]:
        raise UsageError(
            f"{name}: B {b.shape} and A {a.shape} cannot be multiplied: expected B (..., m, r) "
            "and A (..., r, n)"
        )
    return b, a


def common_batch(named: Sequence[tuple[str, NDArray[np.float32]]]) -> tuple[int, ...]:
    """Return the batch dimensions that the operands share, broadcast as NumPy does.

    Raises:
        UsageError: They do not broadcast.
    """
    try:
        return np.broadcast_shapes(*(array.shape[:-2] for _, array in named))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in named)
        raise UsageError(
            f"batch dimensions do not fit each other: got {shapes}; expected equal leading "
            "dimensions, or 1"
        ) from None


def stacked(array: NDArray[np.float32], batch: tuple[int, ...]) -> NDArray[np.float32]:
    """Return (..., m, n) as (count, m, n), C-contiguous, broadcast to ``batch``."""
    rows, columns = array.shape[-2:]
    whole = np.broadcast_to(array, (*batch, rows, columns))
    return np.ascontiguousarray(whole).reshape(math.prod(batch), rows, columns)


def whole_number(value: object, name: str, low: int, high: int) -> int:
    """Return ``value`` as an int between ``low`` and ``high``, both included.

    Raises:
        UsageError: It is no integer, or out of range.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name} {value!r}: expected an integer") from None
    if not low <= number <= high:
        raise UsageError(f"{name} {number}: expected {low} to {high}")
    return number


def _as_numpy(values: object, name: str) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return np.asarray(values)
    kind = type(values).__name__
    if not hasattr(values, "__dlpack__") or not hasattr(values, "__dlpack_device__"):
        raise UsageError(
            f"{name} is a {kind}: expected a NumPy array or an object with __dlpack__, such as a "
            "torch tensor"
        )
    if "bfloat16" in str(getattr(values, "dtype", "")):
        raise UsageError(f"{name} is bfloat16, which NumPy lacks: cast it to float32 first")
    try:
        device, index = values.__dlpack_device__()
        if int(device) in _READABLE:
            return np.from_dlpack(values)
    # What an exporter raises is its own affair.
    except Exception as error:
        raise UsageError(f"{name}: this {kind} cannot be read: {error}") from error
    raise UsageError(
        f"{name}: this {kind} lies on device {_device_name(device)}:{index}: expected one on the "
        "CPU, copy it there first (torch: .cpu())"
    )


def _device_name(device: Any) -> str:
    return str(getattr(device, "name", f"type {device}"))


def _require_real(dtype: np.dtype[Any], name: str) -> None:
    if not np.issubdtype(dtype, np.floating):
        raise UsageError(
            f"{name} has dtype {dtype}: expected float16, float32 or float64, cast it first"
        )


def _require_finite(converted: NDArray[np.float32], given: NDArray[Any], name: str) -> None:
    finite = np.isfinite(converted)
    if finite.all():
        return
    first = np.unravel_index(int(np.argmin(finite)), finite.shape)
    place = ", ".join(str(int(i)) for i in first)
    value = given[first]
    if np.isfinite(value):
        raise NonFiniteError(
            f"{name}[{place}] = {value:g} is beyond the range of float32: scale the array"
        )
    raise NonFiniteError(f"{name}[{place}] is {value}: finite entries are needed")
