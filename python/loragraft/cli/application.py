"""The command ``loragraft``: its commands, and how a command line becomes an exit code."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from loragraft.cli.console import BROKEN_PIPE
from loragraft.cli.failure import Failure, abandon_stdout
from loragraft.resource_limits import check_start

#: Each is the function NAME_command of the module of its name.
_COMMANDS: Final = (
    "extract",
    "transfer",
    "compare",
    "verify",
    "inspect",
    "merge",
    "export",
    "evaluate",
    "demo",
    "doctor",
)
_USAGE: Final = 2
#: What typer returns for a Ctrl-C outside of any command.
_INTERRUPTED: Final = 130

_EPILOG: Final = """\
Exit codes: 0 done, 2 usage, 3 unreadable or malformed input, 4 the models do not fit each
other, 5 nothing to adapt, 6 NaN or Inf in the weights, 7 stopped, 8 a needed optional package
or device is missing; 1 is a fault of loragraft itself. Options may be written with dashes or
underscores.
"""


# Help drawn by Rich takes longer than all the rest of it.
_PLAIN: Final[dict[str, Any]] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}


def _with_dashes(token: str) -> str:
    return token.replace("_", "-")


class _Commands(Mapping[str, Any]):
    """The parsers of the commands by name, each made when it is looked up, and its module loaded.

    To make all of them for each of them would take longer than the rest of the start.
    """

    def __getitem__(self, name: str) -> Any:
        if name not in _COMMANDS:
            raise KeyError(name)
        return _parser(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


@cache
def _parser(name: str) -> Any:
    module = import_module(f"loragraft.cli.{name}")
    alone = typer.Typer(add_completion=False, **_PLAIN)
    alone.command(name)(getattr(module, f"{name}_command"))
    return get_command(alone)


class _Group(TyperGroup):
    """The command ``loragraft``, over commands that are not loaded."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]  # only read


app = typer.Typer(
    name="loragraft",
    cls=_Group,
    context_settings={
        "token_normalize_func": _with_dashes,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
    epilog=_EPILOG,
    **_PLAIN,
)


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
        check_start()
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
