"""The places of a model at work, batch by batch, and hooks that look there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    #: Told which places were seen, and what a module read and wrote there: (n,), (n, in), (n, out).
    Watcher = Callable[[NDArray[np.intp], Array, Array], None]

#: Tokens in a batch, padding included, and of one text at most.
BATCH: Final = 2048


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield numbers of texts of like length whose padded size stays within a batch's."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda one: (lengths[one], one)):
        if batch and (len(batch) + 1) * lengths[number] > BATCH:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


class SeenAllError(Exception):
    """Ends a batch whose later layers nobody watches."""


class View:
    """The places of the batch at work, and hooks that look there."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._waiting: set[str] = set()
        self._shape: tuple[int, ...] = (0, 0)
        self._flat: list[int] = []
        self._numbers: NDArray[np.intp] = np.zeros(0, np.intp)

    def look(
        self, shape: tuple[int, ...], at: Sequence[tuple[int, int]], seen: Sequence[tuple[int, int]]
    ) -> None:
        """Go on to the next batch, (lines, tokens), with its places and their numbers."""
        self._waiting = set(self._names)
        self._shape = shape
        self._flat = [row * shape[1] + token for row, token in at]
        self._numbers = np.array([number for _, number in seen], np.intp)

    def hook(self, name: str, watcher: Watcher) -> Callable[[Any, Any, Any], None]:
        """Return a forward hook of torch that tells the watcher of a module."""
        self._names.add(name)

        def told(module: Any, inputs: Any, output: Any) -> None:
            del module
            found = [self._rows(tensor) for tensor in (*inputs[:1], output)]
            if len(found) == 2 and found[0] is not None and found[1] is not None:
                watcher(self._numbers, found[0], found[1])
                self._waiting.discard(name)
                if not self._waiting:
                    raise SeenAllError

        return told

    def _rows(self, tensor: Any) -> Array | None:
        """Return the rows at the places; None of what has not one for every token."""
        lines, tokens = self._shape
        if tuple(tensor.shape[:-1]) not in {(lines, tokens), (lines * tokens,)}:
            return None
        rows: Array = tensor.reshape(lines * tokens, -1)[self._flat].float().numpy()
        return rows
