"""How many questions are run at once: as many as the memory holds, fewer once it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from loragraft.errors import FormatError
from loragraft.memory import available_memory
from loragraft.wording import counted, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Result = TypeVar("Result")

#: Part of the free memory that a batch may fill.
_SHARE: Final = 0.25
#: Where no more is gained: the matrix products of a CPU are saturated sooner than those of a GPU.
MOST_ON_CPU, MOST_ON_GPU = 4096, 65536
_FEWEST: Final = 64
#: Numbers of the width of the residual stream that a token takes while a block is computed.
_ACTIVATIONS: Final = 32
_WORDS: Final = ("can't allocate memory", "out of memory", "not enough memory")


def tokens_at_once(free: int | None, vocabulary: int, width: int, most: int) -> int:
    """Return how many tokens a batch may have.

    Args:
        free: Bytes that can be had; None where the system does not tell.
        vocabulary: Tokens that the model knows: logits of all of them are computed.
        width: Of the residual stream.
        most: Tokens beyond which nothing is gained.
    """
    if free is None:
        return most
    each = 4 * (2 * vocabulary + _ACTIVATIONS * width)
    return max(_FEWEST, min(most, int(free * _SHARE) // each))


def batches(sizes: Sequence[int], tokens: int, questions: int | None = None) -> list[list[int]]:
    """Cut questions into batches of like length, the longest first, where memory fails at once.

    Args:
        sizes: Tokens of every question.
        tokens: Of a batch at most, padding included; a question that alone has more is one.
        questions: In a batch; None to go by the tokens.

    Returns:
        Numbers of the questions, each in one batch.
    """
    found: list[list[int]] = []
    for number in sorted(range(len(sizes)), key=lambda one: (-sizes[one], one)):
        last = found[-1] if found else []
        full = (
            len(last) >= questions
            if questions is not None
            else bool(last) and (len(last) + 1) * sizes[last[0]] > tokens
        )
        if not last or full:
            found.append([])
        found[-1].append(number)
    return found


def run_in_parts(
    batch: Sequence[int], run: Callable[[Sequence[int]], Result]
) -> Iterator[tuple[Sequence[int], Result]]:
    """Run a batch, in halves where it does not fit into the memory.

    Args:
        batch: Numbers of questions.
        run: Runs some of them.

    Yields:
        What was run together, and what came of it.

    Raises:
        FormatError: A single question does not fit.
    """
    waiting = [batch]
    while waiting:
        part = waiting.pop()
        try:
            result = run(part)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise _hopeless(error) from error
        else:
            yield part, result
            continue
        # Outside of the handler, which would keep all that the failed attempt holds alive.
        middle = len(part) // 2
        waiting += [part[middle:], part[:middle]]


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error of torch or Python means that there is no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(word in str(error).lower() for word in _WORDS)


def _hopeless(error: BaseException) -> FormatError:
    free = available_memory()
    told = "" if free is None else f", {size(free)} are free on the CPU"
    return FormatError(
        f"out of memory with {counted(1, 'question')} at a time ({type(error).__name__}{told}): use"
        " --dtype bf16, a GPU with more memory, or a machine where less else runs; --resume goes on"
        " with what is done"
    )
