"""The factors of experts, packed into the two matrices that PEFT keeps for one parameter.

PEFT 0.17 to 0.21 lay out the factors A_e ``(r, in)`` and B_e ``(out, r)`` of E experts as

    lora_A (E*r, in):   row e*r + k is row k of A_e         (the expert varies slowest)
    lora_B (out, r*E):  column k*E + e is column k of B_e   (the expert varies fastest)

What PEFT calls in and out follows from how the model stores the parameter. Where that is the other
way round than the weight is used, the two factors change roles: see `Packing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loragraft.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

#: Experts that are entered at once: 32 numbers of 16 bits are a cache line.
_TOGETHER: Final = 32


class Packing:
    """Two matrices that are filled expert by expert; what is not filled is zero.

    The numbers are moved, never computed with, so bit patterns (BF16 as ``uint16``) serve as well.

    Attributes:
        lora_a: PEFT's lora_A.
    """

    lora_a: NDArray[Any]

    def __init__(
        self,
        experts: int,
        rank: int,
        shape: tuple[int, int],
        dtype: DTypeLike,
        *,
        swapped: bool = False,
    ) -> None:
        """Make room for the factors.

        Args:
            experts: Number of experts.
            rank: Rank of each; factors of smaller rank are filled up with zeros.
            shape: ``(out, in)`` of each weight.
            dtype: NumPy type of the numbers, or of their bit patterns.
            swapped: lora_A belongs to the outputs: A_e is Bᵀ of the factors and B_e is Aᵀ.
        """
        rows, columns = shape[::-1] if swapped else shape
        self._experts, self._rank, self._swapped = experts, rank, swapped
        self.lora_a = np.zeros((experts * rank, columns), dtype)
        self._b = np.zeros((rows, rank, experts), dtype)
        self._waiting: dict[int, NDArray[Any]] = {}

    def put(self, expert: int, b: NDArray[Any], a: NDArray[Any]) -> None:
        """Enter B ``(out, r)`` and A ``(r, in)`` of one expert, r at most the rank.

        Raises:
            ValueError: They do not fit.
        """
        if not 0 <= expert < self._experts or a.shape[0] > self._rank:
            raise ValueError(
                f"expert {expert} of {self._experts}, rank {a.shape[0]} in {self._rank}"
            )
        left, right = (a.T, b.T) if self._swapped else (b, a)
        kept = right.shape[0]
        start = expert * self._rank
        self.lora_a[start : start + kept] = right
        self._waiting[expert] = left
        if len(self._waiting) == _TOGETHER:
            self._flush()

    @property
    def lora_b(self) -> NDArray[Any]:
        """PEFT's lora_B."""
        self._flush()
        rows, rank, experts = self._b.shape
        return self._b.reshape(rows, rank * experts)

    def _flush(self) -> None:
        """Enter what waits: experts lie side by side, and one alone would fill no cache line."""
        numbers, factors = list(self._waiting), list(self._waiting.values())
        self._waiting = {}
        if not numbers:
            return
        first, last = numbers[0], numbers[-1]
        if numbers == list(range(first, last + 1)) and len({b.shape for b in factors}) == 1:
            kept = factors[0].shape[1]
            self._b[:, :kept, first : last + 1] = np.stack(factors).transpose(1, 2, 0)
            return
        for number, left in zip(numbers, factors, strict=True):
            self._b[:, : left.shape[1], number] = left


def pack(
    factors: Sequence[tuple[NDArray[Any], NDArray[Any]]], *, swapped: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return PEFT's (lora_A, lora_B) for the factors of all experts of a parameter.

    Args:
        factors: (B ``(out, r)``, A ``(r, in)``) of every expert; ranks may differ, the largest is
            the packed one.
        swapped: See `Packing`.
    """
    b, a = factors[0]
    rank = max(right.shape[0] for _, right in factors)
    packing = Packing(len(factors), rank, (b.shape[0], a.shape[1]), a.dtype, swapped=swapped)
    for expert, (left, right) in enumerate(factors):
        packing.put(expert, left, right)
    return packing.lora_a, packing.lora_b


def unpack(
    lora_a: NDArray[Any], lora_b: NDArray[Any], experts: int, *, swapped: bool = False
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return (B ``(out, r)``, A ``(r, in)``) of every expert, as views.

    Raises:
        FormatError: The matrices do not hold the factors of so many experts.
    """
    if experts < 1 or lora_a.shape[0] % experts or lora_a.shape[0] != lora_b.shape[1]:
        raise FormatError(
            f"lora_A of shape {list(lora_a.shape)} and lora_B of shape {list(lora_b.shape)} do not"
            f" hold the factors of {experts} experts: expected [{experts}*r, in] and"
            f" [out, r*{experts}]"
        )
    rank = lora_a.shape[0] // experts
    pairs = [
        (lora_b[:, expert::experts], lora_a[expert * rank : (expert + 1) * rank])
        for expert in range(experts)
    ]
    return [(a.T, b.T) for b, a in pairs] if swapped else pairs
