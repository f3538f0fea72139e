"""``loragraft extract``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from loragraft.cli.console import Console, session
from loragraft.cli.options import Device, Force, Json, Output, Quiet, Threads, Verbose, WithReport
from loragraft.cli.values import given_side, iterations, named_output, require_cpu, truth

if TYPE_CHECKING:
    from loragraft.extraction import Extraction, ExtractionPlan
    from loragraft.report.page import Page

Base = Annotated[
    str | None,
    typer.Argument(
        metavar="BASE",
        help="Base checkpoint: a directory, one .safetensors file, or a Hub id"
        " owner/name[@revision].",
    ),
]
Tuned = Annotated[
    str | None,
    typer.Argument(
        metavar="TUNED", help="Checkpoint to imitate, of the same architecture; written like BASE."
    ),
]
Rank = Annotated[
    str,
    typer.Option(
        metavar="N|RULE",
        help="Rank of the adapter, capped where a matrix has no more; several such as 8,16,32 make"
        " OUT-r8 and so on from one factorisation. Or a rule: auto keeps what stands above the"
        " rounding of the stored weights; energy=0.95 the least rank whose factors keep that share"
        " of each module's squared change; error=0.05 the least whose relative error is at most"
        " that; budget=20M spreads so many parameters over all modules where they keep most.",
    ),
]
MaxRank = Annotated[
    int | None,
    typer.Option(metavar="N", help="Largest rank that a rule may give a module; by default 128."),
]
TargetModules = Annotated[
    str,
    typer.Option(
        metavar="WHICH",
        help="Layers to adapt: all-linear (every linear layer but heads and routers), attention,"
        " mlp, experts, module names separated by commas such as q_proj,k_proj (embed_tokens too),"
        " or re:REGEX, which is searched for in the module name.",
    ),
]
Exclude = Annotated[
    str | None, typer.Option(metavar="WHICH", help="Layers to leave out, written the same way.")
]
Layers = Annotated[
    str | None, typer.Option(metavar="RANGES", help="Only these blocks, such as 0-11,20.")
]
Skip3d = Annotated[
    str,
    typer.Option("--skip-3d", metavar="True|False", help="Leave the layers of experts out."),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="The adapter's alpha, which makes its scaling alpha / rank; by default the rank."
        " The factors make up for it: what the adapter adds stays the same.",
    ),
]
DType = Annotated[
    Literal["auto", "bf16", "fp16", "fp32"],
    typer.Option(help="Of the factors on disk; auto is fp16 where that is safe, else bf16."),
]
Format = Annotated[
    Literal["peft", "gguf", "both"],
    typer.Option(
        "--format",
        "--output-format",
        help="peft; gguf for llama.cpp's adapter.gguf instead; or both.",
    ),
]
Oversampling = Annotated[
    int, typer.Option(metavar="N", help="Columns of the random sketch beyond the rank, at least.")
]
PowerIterations = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        help="Passes that sharpen the sketch; auto goes on until the captured energy settles.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Of the random sketches. The same inputs, options and seed give the same bytes.",
    ),
]
Io = Annotated[
    Literal["auto", "mmap", "pread"],
    typer.Option(help="How files are read; auto maps them unless they lie on a network."),
]
ModelA = Annotated[
    str | None, typer.Option("--model-a", metavar="BASE", help="BASE, as an option.")
]
ModelB = Annotated[
    str | None, typer.Option("--model-b", metavar="TUNED", help="TUNED, as an option.")
]
MoeLayout = Annotated[
    Literal["auto", "peft", "peft-legacy", "per-expert"],
    typer.Option(
        help="How experts are written: peft (auto) puts all experts of a block into one parameter,"
        " as PEFT 0.19.1 and later load them; peft-legacy does so for PEFT up to 0.18; per-expert"
        " makes every expert a module, for engines that want 2-D keys."
    ),
]
SaveWholeOption = Annotated[
    Literal["none", "norms", "embeddings", "all"],
    typer.Option(
        "--save-whole",
        help="Changed tensors that no factors can stand for and that the adapter shall carry as"
        " they are: norms, embeddings (a few rows of them as trainable_token_indices) or all."
        " PEFT loads that; some engines refuse it, and the report says which.",
    ),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Look for factors whose merge rounds to TUNED's weights bit for bit: the adapter that"
        " was merged, where there was one. With --rank auto, of the smallest rank that has any.",
    ),
]
PatchOption = Annotated[
    bool,
    typer.Option(
        "--patch",
        help="With --exact: write what the merge still does not give beside the adapter, so that"
        " merge --patch restores TUNED's tensors bit for bit.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with a run that was stopped or killed in OUT; what it finished is kept.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be done, how much would be read and how large the adapter would"
        " be, from the files' headers alone; write nothing.",
    ),
]


def extract_command(
    base: Base = None,
    tuned: Tuned = None,
    output: Output = None,
    rank: Rank = "16",
    max_rank: MaxRank = None,
    target_modules: TargetModules = "all-linear",
    exclude: Exclude = None,
    layers: Layers = None,
    skip_3d: Skip3d = "False",
    alpha: Alpha = None,
    dtype: DType = "auto",
    output_format: Format = "peft",
    oversampling: Oversampling = 8,
    power_iterations: PowerIterations = "auto",
    seed: Seed = 0,
    threads: Threads = None,
    io: Io = "auto",
    device: Device = "cpu",
    model_a: ModelA = None,
    model_b: ModelB = None,
    moe_layout: MoeLayout = "auto",
    save_whole: SaveWholeOption = "none",
    exact: Exact = False,
    patch: PatchOption = False,
    resume: Resume = False,
    force: Force = False,
    report: WithReport = True,
    dry_run: DryRun = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Extract the LoRA adapter that turns BASE into TUNED.

    The change of every chosen linear layer, W_tuned - W_base, is factored by a truncated
    singular value decomposition and written as a PEFT adapter, with a report of what it keeps.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.adapter.whole_plan import SaveWhole
        from loragraft.architecture.selection import parse_selection
        from loragraft.extraction import (
            ExtractOptions,
            parse_rank,
            plan_extraction,
        )

        before = given_side("BASE", base, "--model-a", model_a)
        after = given_side("TUNED", tuned, "--model-b", model_b)
        require_cpu(device)
        target = None if dry_run and output is None else named_output(output)
        options = ExtractOptions(
            rank=parse_rank(rank, max_rank),
            rank_text=rank,
            selection=parse_selection(
                target_modules, exclude, layers, experts=not truth("--skip-3d", skip_3d)
            ),
            alpha=alpha,
            dtype=dtype,
            oversampling=oversampling,
            power_iterations=iterations(power_iterations),
            seed=seed,
            threads=threads,
            io=io,
            moe_layout=moe_layout,
            save_whole=SaveWhole(save_whole),
            exact=exact,
            patch=patch,
            format=output_format,
        )
        plan = plan_extraction(before, after, options)
        if target is None or dry_run:
            _show_plan(console, plan, target, force=force, resume=resume)
        else:
            _extract(console, plan, target, force=force, resume=resume, with_report=report)


def _show_plan(
    console: Console, plan: "ExtractionPlan", output: Path | None, *, force: bool, resume: bool
) -> None:
    """Print a plan, after the checks that the work itself would begin with."""
    from loragraft.cli.plan_summary import PlanSummary
    from loragraft.extraction.extraction import check_outputs
    from loragraft.extraction.preflight import check_memory

    if output is None:
        check_memory(plan)
    else:
        check_outputs(plan, output, force=force, resume=resume)
    summary = PlanSummary.of(plan)
    console.warn(summary.warnings)
    console.show(summary.to_json, lambda: summary.page)


def _extract(
    console: Console,
    plan: "ExtractionPlan",
    output: Path,
    *,
    force: bool,
    resume: bool,
    with_report: bool,
) -> None:
    from loragraft.extraction import run_plan

    console.note(
        f"{len(plan.modules)} modules to factor, {plan.bytes_to_read / 1e6:.1f} MB to read"
    )
    with console.progress("Extracting", at_once=False) as progress:
        result = run_plan(
            plan,
            output,
            force=force,
            resume=resume,
            with_report=with_report,
            progress=progress,
        )
    console.warn(result.report.summary.warnings)
    console.show(lambda: _to_json(result), lambda: _page(result))


def _to_json(result: "Extraction") -> "dict[str, Any]":
    """Return the report, of the largest rank where there are several, with those of the others."""
    data = result.report.to_json(singular_values=False)
    if result.smaller:
        data["smaller"] = [_to_json(other) for other in result.smaller]
    return data


def _page(result: "Extraction") -> "Page":
    from loragraft.cli.findings import without_warnings
    from loragraft.report.page import Line, Page
    from loragraft.report.tables import extraction_table

    figures = extraction_table(without_warnings(result.report))
    adapters = (Line(_adapter_line(one)) for one in (*result.smaller, result))
    return Page((*figures.parts, *adapters))


def _adapter_line(result: "Extraction") -> str:
    from loragraft.wording import percent, shown, size

    assert result.output is not None
    summary = result.report.summary
    energy = f", energy {percent(summary.energy)}"
    return (
        f"Adapter: {shown(result.output)}, {size(summary.bytes_written)}{energy},"
        f" in {summary.seconds:.1f} s"
    )
