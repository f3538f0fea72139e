"""The demonstration's figures as one table."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loragraft.demo.story import RANK
from loragraft.extraction.ranks import AutoRank, Spectrum
from loragraft.report.kinds import by_kind, gather
from loragraft.wording import percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from loragraft.demo.story import DemoResult
    from loragraft.report.kinds import KindFigures
    from loragraft.report.model import ModuleReport

_COLUMNS = (
    "module",
    "count",
    "energy kept",
    "rel. error",
    "error / optimum",
    "rank found",
    "bit-exact",
    "ms",
)


def render(result: DemoResult) -> RenderableType:
    """Return the table, the steps' times, and where everything lies."""
    return Group(
        _figures(result), *_steps(result), Text(""), *(Text(line) for line in _ending(result))
    )


def _figures(result: DemoResult) -> Table:
    table = Table(title="SmolLM2-135M-Instruct, a rank-8 LoRA merged in and extracted back")
    for position, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=True)
    modules = result.verification.modules
    seconds = {module.name: module.seconds for module in result.extraction.modules}
    ranks = _ranks_found(modules)
    for figures in by_kind(modules):
        group = [module for module in modules if module.kind == figures.kind]
        table.add_row(*_cells(figures, group, ranks, seconds))
    table.add_section()
    table.add_row(*_cells(gather("all", modules), modules, ranks, seconds), style="bold")
    return table


def _ranks_found(modules: Sequence[ModuleReport]) -> dict[str, int]:
    """Return the rank by module that ``--rank auto`` would choose."""
    spectra = [
        Spectrum(
            singular_values=(module.singular_values,),
            delta_squares=(module.delta_norm**2,),
            rounding_squares=(((module.rounding_floor or 0.0) * module.delta_norm) ** 2,),
            optimal_squares=((),),
            residual_squares=((),),
            shape=module.shape,
            group=module.kind,
        )
        for module in modules
    ]
    most = max(spectrum.available for spectrum in spectra)
    chosen = AutoRank(most).choose(spectra)
    return {module.name: rank for module, rank in zip(modules, chosen, strict=True)}


def _cells(
    figures: KindFigures,
    modules: Sequence[ModuleReport],
    ranks: Mapping[str, int],
    seconds: Mapping[str, float],
) -> Iterator[str]:
    yield escape(figures.kind)
    yield str(figures.modules)
    yield percent(figures.energy)
    yield f"{figures.error:.2%}"
    yield "–" if figures.over_optimum is None else f"{figures.over_optimum:.5f}"
    yield f"{statistics.median(ranks[module.name] for module in modules):g}"
    yield "–" if figures.bit_exact is None else percent(figures.bit_exact)
    yield f"{1000 * sum(seconds[module.name] for module in modules):.0f}"


def _steps(result: DemoResult) -> Iterator[Text]:
    summary = result.extraction.summary
    for step, seconds in result.seconds.items():
        yield Text(f"{step:<28}{seconds:6.2f} s")
    yield Text(
        f"in: two checkpoints, {summary.bytes_read / 1e6:.0f} MB compared;"
        f" out: {summary.bytes_written / 1e6:.1f} MB adapter"
    )


def _ending(result: DemoResult) -> Iterator[str]:
    yield (
        "Energy kept is below 100 % because the merged weights were rounded to bf16: the rounding"
        " is part of ΔW, but of no low rank. The optimum is what the best rank-8 matrix can do."
    )
    yield (
        "Rank found: what --rank auto would choose from the singular values alone"
        f" (median over the modules, {RANK} being the truth)."
    )
    yield f"Report: {result.directory / 'adapter' / 'report.json'}"
