"""The errors of loragraft, each with the exit code that the command line answers with."""

from __future__ import annotations


class LoragraftError(Exception):
    """Base of every error that loragraft raises on purpose.

    The message says what is wrong, where, what was found, what was expected and what to do.
    """

    exit_code = 1


class UsageError(LoragraftError):
    """An option or argument that cannot be used, such as rank 0 or an output that exists."""

    exit_code = 2


class FormatError(LoragraftError):
    """A file that cannot be read or written, or whose content is malformed."""

    exit_code = 3


class MismatchError(LoragraftError):
    """Models, or a model and an adapter, that do not fit each other."""

    exit_code = 4


class NothingToAdaptError(LoragraftError):
    """No module is left to adapt: the checkpoints are equal or the selection is empty."""

    exit_code = 5


class NonFiniteError(LoragraftError):
    """NaN or Inf among the weights."""

    exit_code = 6


class StoppedError(LoragraftError):
    """The work was stopped before it was done, by Ctrl-C or a signal."""

    exit_code = 7


class MissingDependencyError(LoragraftError):
    """An optional package or device that this work needs is not there."""

    exit_code = 8
