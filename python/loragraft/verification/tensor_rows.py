"""The outcomes of raw tensors, put together from the modules that they are part of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from loragraft.report.model import Outcome, TensorReport
from loragraft.verification.tally import total

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loragraft.checkpoint import Checkpoint
    from loragraft.verification.tally import Tally


class TensorRows:
    """Collects what was found and gives a row for every tensor of both checkpoints."""

    def __init__(self, base: Checkpoint, tuned: Checkpoint) -> None:
        self._base, self._tuned = base.tensors, tuned.tensors
        self._done: dict[str, TensorReport] = {}
        self._sums: dict[str, list[Tally]] = {}
        self._adapted: set[str] = set()
        self._why: dict[str, str] = {}

    def add(self, row: TensorReport) -> None:
        """Take the row of a tensor that was compared by itself."""
        self._done[row.name] = row

    def add_module(
        self, tensors: Iterable[str], sums: Mapping[str, Sequence[Tally]], why: str | None
    ) -> None:
        """Take what was found about a module.

        Args:
            tensors: Every tensor of the module, on either side.
            sums: Tensor -> sums over its entries.
            why: Why the module is not adapted; None where it is.
        """
        for name in tensors:
            if why is None:
                self._adapted.add(name)
            else:
                self._why.setdefault(name, why)
        for name, tallies in sums.items():
            self._sums.setdefault(name, []).extend(tallies)

    def rows(self) -> tuple[TensorReport, ...]:
        """Return the rows, the base's order first."""
        names = dict.fromkeys((*self._base, *self._tuned))
        return tuple(self._done.get(name) or self._row(name) for name in names)

    def _row(self, name: str) -> TensorReport:
        whole = total(self._sums.get(name, ()))
        change = math.sqrt(whole.delta / whole.weight) if whole.weight > 0.0 else None
        outcome, why = Outcome.LEFT_OUT, self._why.get(name, "")
        if name in self._adapted:
            outcome, why = Outcome.ADAPTED, ""
        elif whole.delta == 0.0:
            outcome, why, change = Outcome.UNCHANGED, "equal values, stored in another way", 0.0
        base, tuned = self._base.get(name), self._tuned.get(name)
        known = base or tuned
        assert known is not None
        return TensorReport(
            name=name,
            shape=known.shape,
            dtype_base=base.dtype if base else None,
            dtype_tuned=tuned.dtype if tuned else None,
            outcome=outcome,
            why=why,
            relative_change=change,
        )
