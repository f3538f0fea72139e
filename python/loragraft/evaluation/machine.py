"""What this machine computes fastest with: the dtype, and the number of threads."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

#: By how much bfloat16 must be faster to be worth its rounding.
_WORTH: Final = 1.2
#: By how much one thread must be faster than all: timings scatter.
_WORTH_ONE: Final = 1.1
#: (tokens, in, out) of the product by which it is found out, how many follow one another as they
#: do in a model, and how often that is timed.
_PROBE: Final = (256, 1024, 1024)
_CHAIN: Final = 4
_TIMES: Final = 5


class Numbers(NamedTuple):
    """What is computed with, and where.

    Attributes:
        dtype: As torch calls it.
        device: As torch calls it.
        why: In words.
    """

    dtype: str
    device: str
    why: str


def choose_numbers(dtype: str | None, stored: str) -> Numbers:
    """Return what to compute with: on a GPU where there is one, else what the CPU does faster.

    Args:
        dtype: What was asked for; None for a choice.
        stored: What most of the model's weights are stored as, such as ``BF16``.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is not None:
        return Numbers(dtype, device, "as asked for")
    if stored == "F32":
        return Numbers("float32", device, "as the weights are stored")
    if device == "cuda":
        return Numbers("bfloat16", device, "as GPUs are fastest")
    seconds = {name: _seconds(name) for name in ("float32", "bfloat16")}
    gain = seconds["float32"] / seconds["bfloat16"]
    if gain >= _WORTH:
        return Numbers("bfloat16", device, f"{gain:.1f} times as fast here as float32")
    return Numbers("float32", device, f"bfloat16 is {gain:.1f} times as fast here")


def choose_threads(asked: int | None, device: str) -> tuple[int | None, str]:
    """Return how many threads to compute with, and why.

    Threads of torch wait for each other after every operation: where a core is busy with something
    else, one of them is faster than all.

    Args:
        asked: What was asked for; None for a choice.
        device: As torch calls it.

    Returns:
        The number, None for as many as torch takes; in words where one thread is taken, else "".
    """
    import torch

    if asked is not None or device != "cpu" or torch.get_num_threads() == 1:
        return asked, ""
    gain = _seconds("float32") / _seconds("float32", threads=1)
    if gain < _WORTH_ONE:
        return None, ""
    return 1, f"one thread: {gain:.1f} times as fast here now as {torch.get_num_threads()}"


def thread_count(threads: int | None) -> int:
    """Return how many threads torch takes where so many are asked for, None for its own choice."""
    import torch

    return int(threads or torch.get_num_threads())


def _seconds(dtype: str, threads: int | None = None) -> float:
    """Return the median time of a few matrix products in a row."""
    import torch

    tokens, width, out = _PROBE
    left = torch.ones((tokens, width), dtype=getattr(torch, dtype))
    right = torch.full((out, width), 1.0 / width, dtype=getattr(torch, dtype))
    found = []
    with _threads(threads):
        for _ in range(_TIMES):
            started = time.perf_counter()
            there = left
            for _ in range(_CHAIN):
                there = torch.nn.functional.silu(torch.nn.functional.linear(there, right))
            found.append(time.perf_counter() - started)
    return sorted(found)[_TIMES // 2]


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
