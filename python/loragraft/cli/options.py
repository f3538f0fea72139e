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
