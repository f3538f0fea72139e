"""Results worked out before they are asked for, a few at a time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Asked = TypeVar("Asked")
Result = TypeVar("Result")

#: Results that may lie ready beside those in work.
_READY: Final = 2


class Ahead(Generic[Asked, Result]):
    """Works on what was announced while the caller does something else.

    Results come in the order of the announcements, and so do errors: when their turn comes.
    """

    def __init__(self, work: Callable[[Asked], Result], threads: int) -> None:
        self._work = work
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._coming: Iterator[Asked] = iter(())
        self._pending: deque[tuple[Asked, Future[Result]]] = deque()

    def announce(self, coming: Iterable[Asked]) -> None:
        """Tell what will be asked for next, in this order; what was announced before is dropped."""
        self._drop()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)
        self._coming = iter(coming)
        self._refill(self._pool)

    def has_next(self, asked: Asked) -> bool:
        """Say whether something is the next of what was announced."""
        return bool(self._pending) and self._pending[0][0] == asked

    def take(self) -> Result:
        """Return the next result, which must have been announced."""
        _, future = self._pending.popleft()
        assert self._pool is not None
        self._refill(self._pool)
        return future.result()

    def close(self) -> None:
        """Drop what was not asked for, and wait until nobody works any more."""
        self._drop()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _refill(self, pool: ThreadPoolExecutor) -> None:
        while len(self._pending) < self._threads + _READY:
            following = next(self._coming, None)
            if following is None:
                return
            self._pending.append((following, pool.submit(self._work, following)))

    def _drop(self) -> None:
        self._coming = iter(())
        while self._pending:
            self._pending.pop()[1].cancel()
