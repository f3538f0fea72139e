"""Arguments and options that several commands share."""

from typing import Annotated

import typer

Base = Annotated[
    str,
    typer.Argument(
        metavar="BASE",
        help="Base checkpoint: a directory, one .safetensors file, or a Hub id"
        " owner/name[@revision].",
        show_default=False,
    ),
]
Tuned = Annotated[
    str,
    typer.Argument(
        metavar="TUNED",
        help="Checkpoint to imitate, of the same architecture; written like BASE.",
        show_default=False,
    ),
]
Adapter = Annotated[
    str,
    typer.Argument(metavar="ADAPTER", help="Directory of a PEFT LoRA adapter.", show_default=False),
]
Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="OUT", help="Directory for the adapter.")
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", help="Threads to compute with; by default one per core."),
]
Device = Annotated[str, typer.Option(hidden=True)]
Force = Annotated[bool, typer.Option("--force", help="Replace an adapter in OUT.")]
WithReport = Annotated[
    bool,
    typer.Option(
        "--report/--no-report", help="Write report.json and report.html beside the adapter."
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object and nothing else.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress and no table; warnings and errors remain."),
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        metavar="",
        help="Tell more on stderr; -v -v also shows the traceback of an error.",
    ),
]
