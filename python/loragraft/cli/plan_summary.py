"""What ``extract --dry-run`` tells of a plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from loragraft.extraction.preflight import differences, needed_memory
from loragraft.extraction.ranks import rules
from loragraft.extraction.verdict import warnings
from loragraft.report.page import Line, Page, Table
from loragraft.wording import shapes, span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.extraction import ExtractionPlan
    from loragraft.extraction.plan import ModulePlan

SCHEMA: Final = "loragraft.plan/1"


@dataclass(frozen=True, slots=True)
class KindPlan:
    """The modules of one kind that would be adapted.

    Attributes:
        kind: Such as ``q_proj``.
        modules: How many there are.
        shapes: Their different ``(out, in)``; of one expert where there are several.
        ranks: Smallest and largest rank.
        experts: How many experts each of them is of, at most; 0 for layers of their own.
    """

    kind: str
    modules: int
    shapes: tuple[tuple[int, int], ...]
    ranks: tuple[int, int]
    experts: int = 0


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """A plan in a few figures.

    Attributes:
        base: The base checkpoint.
        tuned: The tuned checkpoint.
        kinds: What would be adapted.
        left_out: Reason -> number of tensors that would not be.
        bytes_to_read: Bytes of tensor data on both sides.
        bytes_to_write: Size of the factors if every module differs.
        memory: Upper estimate of the anonymous memory of the run, in bytes.
        warnings: What can be known to surprise before the work.
        adapters: What is written, in words.
    """

    base: str
    tuned: str
    kinds: tuple[KindPlan, ...]
    left_out: Mapping[str, int]
    bytes_to_read: int
    bytes_to_write: int
    memory: int
    warnings: tuple[str, ...]
    adapters: str = "Adapter"

    @classmethod
    def of(cls, plan: ExtractionPlan) -> PlanSummary:
        """Sum a plan up."""
        groups: dict[str, list[ModulePlan]] = {}
        for module in plan.modules:
            groups.setdefault(module.linear.kind, []).append(module)
        reasons = Counter(why for _, why in (*plan.measured, *plan.untouched))
        return cls(
            base=plan.base.reference,
            tuned=plan.tuned.reference,
            kinds=tuple(_kind(kind, modules) for kind, modules in groups.items()),
            left_out=dict(reasons.most_common()),
            bytes_to_read=plan.bytes_to_read,
            bytes_to_write=plan.largest_results,
            memory=needed_memory(plan),
            warnings=(*differences(plan.base, plan.tuned), *warnings(plan, (), ())),
            adapters=_adapters(plan),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain data."""
        return {"schema": SCHEMA, "command": "extract", "dry_run": True, **asdict(self)}

    @property
    def page(self) -> Page:
        """The summary as people read it, without the warnings."""
        columns = ("module", "shape (out, in)", "count", "rank")
        kinds = Table(columns, tuple(map(_cells, self.kinds)), words=2)
        left_out = [f"  left out: {count} × {why}" for why, count in self.left_out.items()]
        return Page((kinds, *map(Line, left_out), *map(Line, self._lines())))

    def _lines(self) -> tuple[str, ...]:
        modules = sum(kind.modules for kind in self.kinds)
        return (
            f"To adapt: {modules} modules; to read: {_megabytes(self.bytes_to_read)}",
            f"{self.adapters}: {_megabytes(self.bytes_to_write)} if every module differs",
            f"Memory: at most {_megabytes(self.memory)} besides the files themselves",
            "Nothing was written: this is a dry run.",
        )


def _adapters(plan: ExtractionPlan) -> str:
    count = len(rules(plan.options.rank))
    words = "Adapter" if count == 1 else f"{count} adapters together"
    return words if plan.options.rank.fixed else f"{words}, at most"


def _kind(kind: str, modules: list[ModulePlan]) -> KindPlan:
    ranks = [module.rank for module in modules]
    different = tuple(sorted({module.linear.shape for module in modules}))
    experts = max(module.linear.experts for module in modules)
    return KindPlan(kind, len(modules), different, (min(ranks), max(ranks)), experts)


def _cells(kind: KindPlan) -> tuple[str, ...]:
    count = f"{kind.modules} × {kind.experts}" if kind.experts else str(kind.modules)
    return kind.kind, shapes(kind.shapes), count, span(*kind.ranks)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
