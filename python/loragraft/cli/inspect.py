"""``loragraft inspect``."""

from typing import Annotated, Literal

import typer

from loragraft.cli.console import session
from loragraft.cli.options import Json, Quiet, Verbose


def inspect_command(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A checkpoint or an adapter: a directory, a .safetensors or .gguf file, or a Hub"
            " id owner/name[@revision].",
            show_default=False,
        ),
    ],
    engine: Annotated[
        Literal["peft", "vllm", "sglang", "llama.cpp"] | None,
        typer.Option(
            "--for",
            help="Also say whether this program would load the adapter, and what it would leave"
            " out in silence.",
        ),
    ] = None,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Show what a checkpoint or an adapter consists of.

    Tensors, dtypes, kinds of modules and family; for an adapter also ranks, scaling, norms and
    what may surprise whoever loads it.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.inspection import inspect
        from loragraft.report.inspection_table import inspection_table

        found = inspect(path, engine=engine)
        console.show(found.to_json, lambda: inspection_table(found))
