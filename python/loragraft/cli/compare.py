"""``loragraft compare``."""

from typing import Annotated

import typer

from loragraft.cli.console import session
from loragraft.cli.options import Json, Quiet, Verbose

_SIDE = "a directory, one .safetensors file, or a Hub id owner/name[@revision]."


def compare_command(
    a: Annotated[
        str, typer.Argument(metavar="A", help=f"A checkpoint: {_SIDE}", show_default=False)
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Directory for report.json, report.html and compare.svg.",
        ),
    ] = None,
    subspace_rank: Annotated[
        str,
        typer.Option(
            metavar="N|energy=X",
            help="Dimension of the singular subspaces; or the least that holds that share of ‖W‖².",
        ),
    ] = "128",
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="A line for every module, not for every kind.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random sketches.")] = 0,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", help="Threads to compute with; by default one per core."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Keep no subspaces for the next run.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a directory that holds something.")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Compare two models: weight change and subspace overlap per module, above chance.

    Random subspaces overlap too. What is printed as excess is 0 for them and 1 for the same
    subspaces; z counts standard deviations of random subspaces. Two maps show the excess and the
    weight change of every kind of module in every layer; -o draws them as a picture too.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.comparison import compare
        from loragraft.comparison.summary import comparison_page

        with console.progress("Comparing") as progress:
            result = compare(
                a,
                b,
                output or None,
                subspace_rank=subspace_rank,
                seed=seed,
                threads=threads,
                cache=not no_cache,
                force=force,
                progress=progress,
            )
        console.warn(result.report.summary.warnings)
        console.show(
            result.report.to_json, lambda: comparison_page(result.report, by_layer=by_layer)
        )
