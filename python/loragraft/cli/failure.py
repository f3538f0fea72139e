"""What a command says when it fails: one line, one exit code, and the same as JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final, NamedTuple

from loragraft.errors import (
    FormatError,
    LoragraftError,
    MissingDependencyError,
    StoppedError,
    UsageError,
)
from loragraft.wording import printable, reason, shown

SCHEMA: Final = "loragraft.error/1"
_EXTENSION: Final = "_core"
_NO_THREAD: Final = "can't start new thread"


class Failure(NamedTuple):
    """An error as the command line tells it.

    Attributes:
        kind: Name of the error's class in `loragraft.errors`, or ``InternalError``.
        message: One line: what is wrong, where, and what to do.
        exit_code: Of the process.
    """

    kind: str
    message: str
    exit_code: int

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception."""
        known = _known(error)
        if known is not None:
            return cls(type(known).__name__, one_line(str(known)), known.exit_code)
        text = one_line(f"{type(error).__name__}: {error}")
        return cls(
            "InternalError",
            f"internal error: {text}; run again with -v -v for the traceback, and report it",
            1,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the failure as plain data."""
        error = {"kind": self.kind, "message": self.message, "exit_code": self.exit_code}
        return {"schema": SCHEMA, "error": error}

    def tell(self, *, json_output: bool) -> None:
        """Print the line on stderr, and with ``--json`` the object on stdout."""
        print(f"loragraft: error: {self.message}", file=sys.stderr, flush=True)
        if json_output:
            try:
                print(json.dumps(self.to_json(), indent=2), flush=True)
            except OSError:
                abandon_stdout()


def abandon_stdout() -> None:
    """Let what is still buffered for a stdout that takes no more vanish."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def one_line(text: str) -> str:
    """Return a text on one line, with everything escaped that could act on a terminal."""
    return printable(" ".join(text.split()))


def _known(error: BaseException) -> LoragraftError | None:  # noqa: PLR0911 -- a table
    """Return an error of ours that says the same, None where the exception is a surprise."""
    if isinstance(error, LoragraftError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return StoppedError("stopped before it was done; nothing half-written is left behind")
    if isinstance(error, OSError) and error.strerror:
        where = f"{shown(os.fsdecode(error.filename))}: " if error.filename else ""
        return FormatError(f"{where}{reason(error)}; check the file and its permissions")
    if isinstance(error, MemoryError):
        return FormatError("out of memory; use fewer --threads or a smaller --rank")
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return FormatError(
            "no thread can be started; use fewer --threads, or raise the limits (ulimit -u, -v)"
        )
    if isinstance(error, ImportError) and (error.name or "").endswith(_EXTENSION):
        return MissingDependencyError(
            f"the compiled part of loragraft cannot be loaded ({error}); install it again:"
            " pip install --force-reinstall loragraft"
        )
    if hasattr(error, "format_message"):
        return UsageError(_parser_message(error))
    return None


def _parser_message(error: BaseException) -> str:
    """Return what the parser of the command line has to say, and where its help is."""
    message = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    command = "loragraft" if context is None else context.command_path
    return f"{message[:1].lower()}{message[1:]}; see {command} --help"
