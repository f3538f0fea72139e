"""What an adapter carries beside its factors: tensors saved whole, rows of tokens, biases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from loragraft.adapter.engines import LLAMA_CPP, engine_warnings
from loragraft.adapter.whole import find_candidates
from loragraft.adapter.whole_plan import SaveWhole, WholePlan, offers, plan_whole
from loragraft.extraction.findings import LARGE_CHANGE
from loragraft.report.model import Outcome
from loragraft.tensor_bytes import TensorBytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from loragraft.extraction.choice import Choice
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.report.model import TensorReport


class Carried(NamedTuple):
    """What goes into the file beside the factors.

    Attributes:
        whole: The tensors, and what the config says of them.
        offers: What other values of ``--save-whole`` would carry, in words, where that is much.
        asked: Whether anything was to be carried.
    """

    whole: WholePlan
    offers: tuple[str, ...] = ()
    asked: bool = False

    @property
    def nbytes(self) -> int:
        """Size of the tensors."""
        return sum(tensor.nbytes for tensor in self.whole.tensors)

    def told(self, tensors: Sequence[TensorReport]) -> tuple[TensorReport, ...]:
        """Return the rows of a report with what became of the tensors."""
        return tuple(map(self._told, tensors))

    def _told(self, row: TensorReport) -> TensorReport:
        if row.name in self.whole.saved:
            return replace(row, outcome=Outcome.SAVED_WHOLE, why=self.whole.saved[row.name])
        why = self.whole.refused.get(row.name, row.why)
        if self.asked and row.outcome is Outcome.LEFT_OUT and why != row.why:
            return replace(row, why=f"{row.why}: {why}")
        return row

    def warnings(self, config: Mapping[str, Any], *, has_gguf: bool = False) -> list[str]:
        """Return what a user of the adapter should know.

        Args:
            config: The adapter's.
            has_gguf: It is written for llama.cpp too, whose converter is not needed then.
        """
        found = list(self.offers)
        if self.whole.rows is not None:
            found.append(
                f"the vocabulary differs: call resize_token_embeddings({self.whole.rows}) on the"
                " base before the adapter is loaded"
            )
        keys = (tensor.key for tensor in self.whole.tensors)
        skipped = (LLAMA_CPP,) if has_gguf else ()
        return [*found, *engine_warnings(config, keys, skipped)]


def carry(plan: ExtractionPlan, choice: Choice, tensors: Sequence[TensorReport]) -> Carried:
    """Choose what is carried.

    Args:
        plan: What was to be done.
        choice: The ranks that are written.
        tensors: What was found of every tensor.

    Raises:
        FormatError: A tensor cannot be read.
    """
    what = plan.options.save_whole
    unchanged = {row.name for row in tensors if row.outcome is Outcome.UNCHANGED}
    adapted = [one.module.linear for one in choice.written(plan)]
    candidates = find_candidates(plan.base, plan.tuned, plan.inventory, adapted)
    with TensorBytes() as reader:
        whole = plan_whole(candidates, what, unchanged, reader)
        # To tell what embeddings have changed means to read them: not without a need.
        missed = any(
            row.outcome is Outcome.LEFT_OUT and (row.relative_change or 0.0) > LARGE_CHANGE
            for row in tensors
        )
        others = offers(candidates, what, unchanged, reader) if missed else ()
    return Carried(whole, tuple(others), what is not SaveWhole.NONE)
