"""``loragraft doctor``."""

from typing import Final

import typer

from loragraft.cli.console import session
from loragraft.cli.options import Json, Quiet, Verbose

_MISSING: Final = 8


def doctor_command(json_output: Json = False, quiet: Quiet = False, verbose: Verbose = 0) -> None:
    """Show what this installation has and uses.

    Versions, instruction set, BLAS, threads, CUDA and the optional packages; exit code 8 if
    something keeps loragraft from working.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.cli.diagnosis import diagnose

        found = diagnose()
        console.show(found.to_json, lambda: found.page)
        if found.problem is not None:
            console.warn([found.problem])
            raise typer.Exit(_MISSING)
