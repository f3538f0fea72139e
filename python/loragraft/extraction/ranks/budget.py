"""``--rank budget=``: a number of parameters, spread over modules by what each triplet keeps."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.errors import MismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.ranks.spectrum import Spectrum

#: Below this squared share of a module's largest, singular values are rounding of singles.
_NOTHING: Final = 2.0**-40


class BudgetRank(NamedTuple):
    """As much energy as a number of parameters can hold.

    Triplets are taken in the order of s² per parameter, from all modules together; a module whose
    next triplet does not fit gets no more. All experts of a block count as one module, whose k-th
    triplet is the k-th of each expert.

    Attributes:
        parameters: Numbers in the factors of the whole adapter, at most.
        most: How many triplets to compute.
    """

    parameters: int
    most: int
    fixed: bool = False

    def choose(self, spectra: Sequence[Spectrum]) -> list[int]:
        """Return the rank of every adapter parameter; some may get 0.

        Raises:
            MismatchError: The budget does not hold a single triplet.
        """
        gains = [_worth_having(spectrum.gains) for spectrum in spectra]
        costs = [spectrum.parameters_per_rank for spectrum in spectra]
        ranks = [0] * len(spectra)
        queue = [(-gain[0] / costs[i], i) for i, gain in enumerate(gains) if gain]
        heapify(queue)
        if queue:
            self._check(spectra, [i for _, i in queue])
        left = self.parameters
        while queue:
            _, i = heappop(queue)
            if costs[i] > left:
                continue
            left -= costs[i]
            ranks[i] += 1
            if ranks[i] < min(len(gains[i]), self.most):
                heappush(queue, (-gains[i][ranks[i]] / costs[i], i))
        return ranks

    def _check(self, spectra: Sequence[Spectrum], changed: Sequence[int]) -> None:
        """Refuse a budget that holds nothing."""
        cheapest = min((spectra[i] for i in changed), key=lambda s: s.parameters_per_rank)
        if cheapest.parameters_per_rank > self.parameters:
            raise MismatchError(
                f"--rank budget={self.parameters}: rank 1 on the smallest module,"
                f" {cheapest.name or cheapest.shape}, takes {cheapest.parameters_per_rank:,}"
                " parameters; allow at least as many"
            )


def _worth_having(gains: Sequence[float]) -> list[float]:
    return [gain for gain in gains if gain > _NOTHING * gains[0]]
