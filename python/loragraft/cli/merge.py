"""``loragraft merge``."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loragraft.cli.console import session
from loragraft.cli.options import Adapter, Base, Json, Quiet, Verbose
from loragraft.cli.values import named_output

if TYPE_CHECKING:
    from loragraft.merging import MergeResult
    from loragraft.report.page import Page


def merge_command(
    base: Base,
    adapter: Adapter,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="OUT", help="Directory to write to.", show_default=False
        ),
    ],
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option(help="Store all weights so; by default each keeps the dtype it has."),
    ] = None,
    patch: Annotated[
        bool,
        typer.Option(
            "--patch",
            help="Apply the residual that lies beside ADAPTER (extract --exact --patch): every"
            " tensor becomes the tuned checkpoint's, bit for bit, and is checked by SHA-256.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint in OUT.")] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Write the checkpoint that BASE is with ADAPTER merged into it.

    Files, their order and metadata are those of BASE; only the adapted weights differ, each
    rounded once, and the tensors that ADAPTER carries whole. Memory does not grow with the model.
    With --patch all tensors are those of the checkpoint that ADAPTER was extracted from.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.merging import merge

        target = named_output(output)
        with console.progress("Merging") as progress:
            result = merge(
                base, adapter, target, dtype=dtype, patch=patch, force=force, progress=progress
            )
        console.show(
            lambda: {"schema": "loragraft.merge/1", **result.to_json()}, lambda: _sentence(result)
        )


def _sentence(result: "MergeResult") -> "Page":
    from loragraft.report.page import Line, Page
    from loragraft.wording import shown

    sentence = (
        f"Merged {result.modules} modules into {shown(result.output)}: {result.tensors} tensors,"
        f" {result.bytes_written / 1e6:,.1f} MB in {result.seconds:.1f} s"
    )
    if result.identical:
        sentence += (
            f"; all {result.identical} tensors identical to the tuned checkpoint's (SHA-256)"
        )
    return Page((Line(sentence),))
