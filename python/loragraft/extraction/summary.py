"""The report of a finished extraction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loragraft.extraction.exact import wording as exact
from loragraft.extraction.module_rows import module_rows
from loragraft.extraction.options import FACTOR_DTYPES
from loragraft.extraction.recognition import recognise
from loragraft.extraction.spectra import other_tensors, units
from loragraft.extraction.verdict import verdict, warnings
from loragraft.report.model import Report, Summary, count_outcomes, total_energy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.extraction.choice import Choice
    from loragraft.extraction.findings import Findings
    from loragraft.extraction.gguf_output import GgufReport
    from loragraft.extraction.patch import PatchReport
    from loragraft.extraction.plan import ExtractionPlan
    from loragraft.report.model import TensorReport


def make_report(
    plan: ExtractionPlan,
    findings: Findings,
    choice: Choice,
    tensors: tuple[TensorReport, ...],
    *,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    bytes_written: int,
    seconds: float,
    patch: PatchReport | None = None,
    gguf: GgufReport | None = None,
) -> Report:
    """Return the report of a run.

    Args:
        plan: What was done.
        findings: What was found.
        choice: The ranks that were written.
        tensors: What became of every tensor.
        before: Warnings to begin with, of the configurations and tokenizers.
        after: Warnings to end with.
        bytes_written: Size of the factors as stored.
        seconds: Wall time.
        patch: What was written beside the adapter to restore TUNED, where that was asked for.
        gguf: What was written for llama.cpp, where that was asked for.
    """
    modules = module_rows(findings, choice)
    energy, error = total_energy(modules)
    options = plan.options
    recognised = recognise(units(plan, findings), other_tensors(plan, tensors))
    summary = Summary(
        verdict=f"{recognised.sentence}; {verdict(modules, energy, error)}{exact.sentence(choice)}"
        f"{patch.sentence() if patch else ''}",
        counts=count_outcomes(tensors),
        bytes_read=findings.bytes_read,
        bytes_written=bytes_written,
        seconds=seconds,
        energy=energy,
        error=error,
        bit_exact=exact.bit_exact(choice.recovered),
        warnings=(
            *before,
            *warnings(plan, tensors, modules),
            *exact.warnings(plan, choice),
            *after,
            *(patch.warnings() if patch else ()),
            *(gguf.warnings() if gguf else ()),
        ),
    )
    item = 4 if FACTOR_DTYPES[options.dtype] == "F32" else 2
    extra = {"recognition": recognised.to_json(item)}
    if options.exact:
        extra["exact"] = exact.to_json(choice)
    if patch is not None:
        extra["patch"] = patch.to_json()
    if gguf is not None:
        extra["gguf"] = gguf.to_json()
    return Report("extract", _inputs(plan, choice), summary, tensors, modules, extra)


def _inputs(plan: ExtractionPlan, choice: Choice) -> dict[str, Any]:
    options = plan.options
    return {
        "base": plan.base.reference,
        "tuned": plan.tuned.reference,
        "rank": max(choice.ranks),
        "rank_rule": options.rank_text,
        "max_rank": options.rank.most,
        "alpha": options.scaling * max(choice.ranks),
        "dtype": options.dtype,
        "target_modules": list(options.selection.target_modules),
        "exclude": list(options.selection.exclude),
        "layers": sorted(options.selection.layers) if options.selection.layers else None,
        "experts": options.selection.experts,
        "oversampling": options.oversampling,
        "power_iterations": options.power_iterations,
        "seed": options.seed,
        "moe_layout": options.layout,
        "save_whole": options.save_whole.value,
        "exact": options.exact,
        "patch": options.patch,
        "format": options.format,
    }
