"""``loragraft demo``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loragraft.cli.console import session
from loragraft.cli.options import Json, Quiet, Verbose

if TYPE_CHECKING:
    from loragraft.demo.story import DemoResult


def demo_command(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Directory for models and reports."),
    ] = Path("loragraft-demo"),
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Show the whole story on a small real model.

    A real adapter is merged into SmolLM2-135M-Instruct, extracted back out of the two
    checkpoints, and verified. Works offline once the extra loragraft[demo] is installed.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.demo.story import run_demo
        from loragraft.demo.table import render

        with console.progress("Demonstrating") as progress:
            result = run_demo(output, progress=progress)
        console.warn(result.verification.summary.warnings)
        console.show(lambda: _plain(result), lambda: render(result))


def _plain(result: "DemoResult") -> dict[str, Any]:
    return {
        "schema": "loragraft.demo/1",
        "command": "demo",
        "directory": str(result.directory),
        "seconds": result.seconds,
        "extraction": result.extraction.to_json(singular_values=False),
        "verification": result.verification.to_json(singular_values=False),
    }
