"""The factors of an extraction, on their way from the kernels to the adapter's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.adapter.embedding import transposed
from loragraft.number_formats import DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loragraft import native
    from loragraft.extraction.plan import ModulePlan
    from loragraft.spool import Extent, Spool


class SpooledFactors(NamedTuple):
    """Where the factors of one matrix lie in the spool, all triplets that were computed."""

    dtype: str
    rank: int
    lora_a: Extent
    lora_b: Extent


class FactorStore:
    """Factors by module and matrix, spooled to disk."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._places: dict[int, dict[int, SpooledFactors]] = {}

    def add(
        self, number: int, matrix: int, module: ModulePlan, result: native.ModuleResult
    ) -> SpooledFactors:
        """Take the factors of one result; return where they lie.

        Args:
            number: Of the module in the plan.
            matrix: Which of its matrices.
            module: The module.
            result: With factors.
        """
        place = self.keep(module, result)
        self.place(number, matrix, place)
        return place

    def keep(self, module: ModulePlan, result: native.ModuleResult) -> SpooledFactors:
        """Store factors without taking them for those of the module; return where they lie."""
        a, b = oriented(module, result)
        return SpooledFactors(
            result.dtype, result.rank, self._spool.append(a), self._spool.append(b)
        )

    def replaced(self, others: Mapping[int, Mapping[int, SpooledFactors]]) -> FactorStore:
        """Return a store with other factors of some modules, by module and matrix."""
        store = FactorStore(self._spool)
        store._places = {**self._places, **{number: {**of} for number, of in others.items()}}
        return store

    def place(self, number: int, matrix: int, factors: SpooledFactors) -> None:
        """Take factors that lie in the spool already."""
        self._places.setdefault(number, {})[matrix] = factors

    def dtype(self, number: int) -> str:
        """Return the format in which a module is written: one that holds all of it exactly."""
        found = {place.dtype for place in self._places.get(number, {}).values()}
        if not found:
            return "F16"
        return found.pop() if len(found) == 1 else "F32"

    def as_computed(self, number: int, module: ModulePlan, rank: int) -> tuple[bytes, bytes] | None:
        """Return (A, B) of a single matrix whose factors have just that rank, None of others."""
        if module.linear.experts or self._places[number][0].rank != rank:
            return None
        _, _, a, b = next(self.read(number))
        return a, b

    def read_matrix(self, number: int, matrix: int) -> tuple[SpooledFactors, bytes, bytes]:
        """Return (format, A, B) of a matrix that has factors."""
        place = self._places[number][matrix]
        return place, self._spool.read(place.lora_a), self._spool.read(place.lora_b)

    def read(self, number: int) -> Iterator[tuple[int, SpooledFactors, bytes, bytes]]:
        """Yield (matrix, format, A, B) of every matrix of a module that has factors, in order."""
        for matrix in sorted(self._places.get(number, {})):
            yield matrix, *self.read_matrix(number, matrix)


def flipped(module: ModulePlan) -> bool:
    """Say whether PEFT's A comes from the rows of the matrices that are factored.

    The kernels factor matrices as they are stored. Where that is ``[in, out]``, the roles of the
    factors change: (L R)ᵀ = Rᵀ Lᵀ; and again where PEFT takes the parameter the other way round.
    """
    return module.transposed != module.linear.address.swapped


def peft_shape(module: ModulePlan) -> tuple[int, int]:
    """Return what PEFT calls ``(out, in)`` of a module's matrices."""
    out, into = module.linear.shape
    return (into, out) if module.linear.address.swapped else (out, into)


def oriented(module: ModulePlan, result: native.ModuleResult) -> tuple[bytes, bytes]:
    """Return (A, B) in PEFT's orientation, row by row."""
    left, right = result.lora_b, result.lora_a
    if not flipped(module):
        return right, left
    out, into = peft_shape(module)
    item = DTYPES[result.dtype].bits // 8
    return (
        transposed(left, into, result.rank, item),
        transposed(right, result.rank, out, item),
    )
