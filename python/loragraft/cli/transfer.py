"""``loragraft transfer``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loragraft.cli.console import Console, session
from loragraft.cli.options import (
    Adapter,
    Device,
    Force,
    Json,
    Output,
    Quiet,
    Threads,
    Verbose,
    WithReport,
)
from loragraft.cli.values import iterations, named_output, require_cpu

if TYPE_CHECKING:
    from loragraft.report.page import Page
    from loragraft.transferring import Transfer, TransferPlan

_SIDE = "a directory, one .safetensors file, or a Hub id owner/name[@revision]."

Source = Annotated[
    str,
    typer.Option(
        "--source",
        metavar="S",
        help=f"The checkpoint that ADAPTER was made for: {_SIDE}",
        show_default=False,
    ),
]
Target = Annotated[
    str,
    typer.Option(
        "--target", metavar="T", help="The checkpoint that is to have it.", show_default=False
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="copy takes the factors as they are (equal shapes); lora-x projects them on the"
        " target's singular subspaces; cross-lora on the source's too; prolora keeps subspace and"
        " null-space parts (equal shapes); shared-vocab turns the residual stream by the embeddings"
        " of shared tokens, and matches heads and neurons (any shapes); activations fits maps to"
        " what both models compute on --calibration texts (any shapes); distill solves what the"
        " adapter makes the source say there into the target's last output projection (any"
        " models); auto copies where the shapes are equal and the similarity is clearly above"
        " chance, elsewhere takes lora-x, or distill where it has texts.",
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Texts that both models are run on, a few hundred, unlabelled: a text a line, or in a"
        ' .jsonl file objects such as {"prompt": "..."} or {"text": "..."}. Needs the extra eval'
        " (torch, transformers, peft).",
        show_default=False,
    ),
]
SubspaceRankOption = Annotated[
    str,
    typer.Option(
        metavar="N|energy=X",
        help="Dimension of the singular subspaces; or the least that holds that share of ‖W‖².",
    ),
]
LayerMapOption = Annotated[
    str,
    typer.Option(
        metavar="RULE|FILE",
        help="Which source layer feeds which target layer: identity, proportional, similarity"
        ' (keeps the order), or a JSON file {"target layer": source layer}; auto is identity for'
        " equal depths, else similarity where widths allow it, else proportional.",
    ),
]
MinSimilarityOption = Annotated[
    str | None,
    typer.Option(
        metavar="X|auto",
        help="Leave modules out whose similarity exceeds chance by less than X, where 0 is chance"
        " and 1 the same subspaces; auto keeps what is clearly above chance.",
    ),
]
ScaleOption = Annotated[
    str,
    typer.Option(
        metavar="X|match-norm",
        help="Factor of every update; match-norm gives each the norm of its source.",
    ),
]
TargetModules = Annotated[
    str,
    typer.Option(
        metavar="WHICH",
        help="Modules of the target that may be adapted: all-linear, attention, mlp, names"
        " separated by commas such as q_proj,k_proj, or re:REGEX. What that removes is told.",
    ),
]
Exclude = Annotated[
    str | None, typer.Option(metavar="WHICH", help="Modules to leave out, written the same way.")
]
Layers = Annotated[
    str | None, typer.Option(metavar="RANGES", help="Only these blocks of the target: 0-11,20.")
]
DType = Annotated[
    Literal["auto", "bf16", "fp16", "fp32"],
    typer.Option(help="Of the factors on disk; auto is that of ADAPTER's."),
]
Controls = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Also write OUT-padded-copy, OUT-random and OUT-shuffled, which a transfer must beat.",
    ),
]
PowerIterations = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        help="Passes that sharpen the subspaces; auto goes on until their energy settles, 2 is"
        " several times as fast on large weights, and coarser.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the random sketches and the controls.")]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Keep no subspaces for the next run. They lie in $LORAGRAFT_CACHE (off turns them off"
        " too), $XDG_CACHE_HOME/loragraft or ~/.cache/loragraft.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print what would go where, and what is left out; write no adapter."
    ),
]


def transfer_command(
    adapter: Adapter,
    source: Source,
    target: Target,
    output: Output = None,
    method: MethodOption = "auto",
    calibration: Calibration = None,
    subspace_rank: SubspaceRankOption = "128",
    layer_map: LayerMapOption = "auto",
    min_similarity: MinSimilarityOption = None,
    scale: ScaleOption = "1.0",
    target_modules: TargetModules = "all-linear",
    exclude: Exclude = None,
    layers: Layers = None,
    dtype: DType = "auto",
    power_iterations: PowerIterations = "auto",
    controls: Controls = False,
    seed: Seed = 0,
    threads: Threads = None,
    no_cache: NoCache = False,
    device: Device = "cpu",
    force: Force = False,
    report: WithReport = True,
    dry_run: DryRun = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Make an adapter for T out of ADAPTER, which was made for S, without training.

    For every module the report tells how similar S and T are there, above chance, how much of the
    update was kept, and whether it does anything at all. It does not tell how well the adapter
    works: evaluate it beside the controls.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.transferring import TransferOptions, plan_transfer, run_transfer

        require_cpu(device)
        where = None if dry_run and output is None else named_output(output)
        options = TransferOptions.read(
            method=method,
            subspace_rank=subspace_rank,
            layer_map=layer_map,
            min_similarity=min_similarity,
            scale=scale,
            target_modules=target_modules,
            exclude=exclude,
            layers=layers,
            dtype=dtype,
            power_iterations=iterations(power_iterations),
            seed=seed,
            threads=threads,
            cache=not no_cache,
            controls=controls,
            calibration=calibration,
        )
        plan = plan_transfer(adapter, source, target, options)
        if where is None or dry_run:
            _show_plan(console, plan, where, force=force)
            return
        with console.progress("Transferring") as progress:
            result = run_transfer(plan, where, force=force, with_report=report, progress=progress)
        console.warn(result.report.summary.warnings)
        console.show(result.report.to_json, lambda: _page(result))


def _show_plan(console: Console, plan: "TransferPlan", output: Path | None, *, force: bool) -> None:
    """Print a plan, after the checks that the work itself would begin with."""
    from loragraft.transferring.run import check_outputs
    from loragraft.transferring.table import plan_data, plan_page

    if output is not None:
        check_outputs(plan, output, force=force)
    console.show(lambda: plan_data(plan), lambda: plan_page(plan))


def _page(result: "Transfer") -> "Page":
    from loragraft.report.page import Line, Page
    from loragraft.transferring.table import transfer_page
    from loragraft.wording import shown, size

    summary = result.report.summary
    lines = [
        Line(
            f"Adapter: {shown(result.output)}, {size(summary.bytes_written)}, in"
            f" {summary.seconds:.1f} s; subspaces: {summary.subspaces_computed} computed,"
            f" {summary.subspaces_cached} from the cache"
        )
    ]
    lines += [Line(f"Control: {shown(path)}") for path in result.controls.values()]
    return Page((*transfer_page(result.report).parts, *lines))
