"""The command ``loragraft``: its commands, and how a command line becomes an exit code."""

import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer
from typer.main import get_command

from loragraft.cli.console import BROKEN_PIPE
from loragraft.cli.demo import demo_command
from loragraft.cli.doctor import doctor_command
from loragraft.cli.extract import extract_command
from loragraft.cli.failure import Failure, abandon_stdout
from loragraft.cli.inspect import inspect_command
from loragraft.cli.merge import merge_command
from loragraft.cli.verify import verify_command

_USAGE: Final = 2
#: What typer returns for a Ctrl-C outside of any command.
_INTERRUPTED: Final = 130

_EPILOG: Final = """\
Exit codes: 0 done, 2 usage, 3 unreadable or malformed input, 4 the models do not fit each
other, 5 nothing to adapt, 6 NaN or Inf in the weights, 7 stopped, 8 a needed optional package
or device is missing; 1 is a fault of loragraft itself. Options may be written with dashes or
underscores.
"""


def _with_dashes(token: str) -> str:
    return token.replace("_", "-")


app = typer.Typer(
    name="loragraft",
    context_settings={
        "token_normalize_func": _with_dashes,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
    epilog=_EPILOG,
    # Help drawn by Rich takes longer than all the rest of it.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("extract")(extract_command)
app.command("verify")(verify_command)
app.command("inspect")(inspect_command)
app.command("merge")(merge_command)
app.command("demo")(demo_command)
app.command("doctor")(doctor_command)


def _show_version(asked: bool) -> None:
    if asked:
        from loragraft import __version__

        typer.echo(f"loragraft {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def loragraft(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Make LoRA adapters without training, out of weights alone.

    Two checkpoints of one architecture go in, the adapter that turns the first into the second
    comes out: try "loragraft extract BASE TUNED -o OUT", or "loragraft demo" for the whole story
    on a small model.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(_USAGE)


def run(arguments: Sequence[str]) -> int:
    """Run a command line.

    Args:
        arguments: As after the program's name.

    Returns:
        The exit code; whatever there is to say has been said.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a character gets its code, not an error.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = get_command(app).main(
            args=list(arguments), prog_name="loragraft", standalone_mode=False
        )
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_stdout()
        return BROKEN_PIPE
    except SystemExit as ended:
        # Completion ends so, and a pipe that breaks under the help.
        return ended.code if isinstance(ended.code, int) else 0
    except Exception as error:
        return _told(Failure.of(error), arguments)
    if code == _INTERRUPTED:
        return _told(Failure.of(KeyboardInterrupt()), arguments)
    return code if isinstance(code, int) else 0


def _told(failure: Failure, arguments: Sequence[str]) -> int:
    failure.tell(json_output="--json" in arguments)
    return failure.exit_code
