"""``loragraft verify``."""

from typing import Annotated

import typer

from loragraft.cli.console import session
from loragraft.cli.options import Adapter, Base, Json, Quiet, Tuned, Verbose


def verify_command(
    base: Base,
    tuned: Tuned,
    adapter: Adapter,
    optimum: Annotated[
        bool,
        typer.Option(
            "--optimum",
            help="Also compute the least error that each module's rank allows, exactly (slow, and"
            " 16 n² bytes of memory for a matrix whose smaller side is n).",
        ),
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Measure what an adapter reproduces of TUNED.

    Everything is recomputed from the files on disk, with none of the code that extracts. Figures
    that the adapter's own report.json states are checked against it.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.cli.findings import without_warnings
        from loragraft.report.tables import verification_table
        from loragraft.verification import verify

        with console.progress("Verifying") as progress:
            report = verify(base, tuned, adapter, optimum=optimum, progress=progress)
        console.warn(report.summary.warnings)
        console.show(
            lambda: report.to_json(singular_values=False),
            lambda: verification_table(without_warnings(report)),
        )
