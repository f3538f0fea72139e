"""Where a command's words go: the result to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import typer

from loragraft.cli.failure import Failure, abandon_stdout, one_line
from loragraft.cli.interruption import stoppable
from loragraft.cli.progress import progress_bar
from loragraft.errors import FormatError
from loragraft.report.page import Page
from loragraft.wording import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from rich.console import RenderableType

    from loragraft.cli.progress import Update

#: Width of a table that goes into a file or a pipe.
_PIPE_WIDTH: Final = 120
#: What a shell reports of a command whose reader went away.
BROKEN_PIPE: Final = 141
_TRACEBACK: Final = 2
#: What makes Rich take a file for a terminal, or for one of another width.
_RICH_VARIABLES: Final = ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE")


class Console(NamedTuple):
    """The streams of one command.

    Attributes:
        json_output: Whether stdout carries one JSON object and nothing else.
        quiet: Whether there is neither progress nor a table.
        verbose: How often ``-v`` was given.
    """

    json_output: bool
    quiet: bool
    verbose: int

    def note(self, text: str) -> None:
        """Say something that only ``-v`` asks for."""
        if self.verbose:
            print(f"loragraft: {one_line(text)}", file=sys.stderr)

    def warn(self, texts: Iterable[str]) -> None:
        """Print warnings, one line each."""
        for text in texts:
            print(f"loragraft: warning: {one_line(text)}", file=sys.stderr)

    def progress(
        self, title: str, *, at_once: bool = True, counts: str = ""
    ) -> AbstractContextManager[Update]:
        """Show a progress bar while the block lasts; see `progress_bar`."""
        return progress_bar(title, shown=not self.quiet, at_once=at_once, counts=counts)

    def show(
        self, data: Callable[[], Mapping[str, Any]], table: Callable[[], RenderableType]
    ) -> None:
        """Print a command's result.

        Args:
            data: Makes what ``--json`` prints.
            table: Makes what people read.
        """
        if self.json_output:
            text = json.dumps(_finite(data()), indent=2, allow_nan=False) + "\n"
        elif self.quiet:
            return
        else:
            with _writing():
                text = _rendered(table())
        with _writing():
            sys.stdout.write(text)
            sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    """Turn a stdout that takes no more, other than by a reader that left, into an error of ours.

    Rich flushes stdout even while it renders into a buffer.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_stdout()
        raise FormatError(f"standard output cannot be written: {reason(error)}") from error


@contextmanager
def session(*, json_output: bool, quiet: bool, verbose: int) -> Iterator[Console]:
    """Run a command: give its console, and end it with an exit code whatever happens.

    Raises:
        typer.Exit: The command failed, and has said why.
    """
    if quiet or not sys.stderr.isatty():
        # The Hub's client draws bars of its own.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    console, started = Console(json_output, quiet, verbose), time.perf_counter()
    try:
        with stoppable():
            yield console
        console.note(f"done in {time.perf_counter() - started:.2f} s")
    except typer.Exit:
        raise
    except BrokenPipeError:
        abandon_stdout()
        raise typer.Exit(BROKEN_PIPE) from None
    except (Exception, KeyboardInterrupt) as error:
        if verbose >= _TRACEBACK:
            import traceback

            traceback.print_exc()
        failure = Failure.of(error)
        failure.tell(json_output=json_output)
        raise typer.Exit(failure.exit_code) from None


def _finite(value: Any) -> Any:
    """Return plain data with null in place of NaN and Inf, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _is_plain_file() -> bool:
    """Whether stdout is one that Rich would neither colour nor spare any characters."""
    return (
        not sys.stdout.isatty()
        and os.environ.keys().isdisjoint(_RICH_VARIABLES)
        and (sys.stdout.encoding or "").lower().startswith("utf")
    )


def _rendered(table: RenderableType) -> str:
    """Lay a table out for stdout; in colour only where that is a terminal."""
    if isinstance(table, Page) and _is_plain_file():
        text = table.plain(_PIPE_WIDTH)
        if text is not None:
            return text
    from rich.console import Console as RichConsole

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    console = RichConsole(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
