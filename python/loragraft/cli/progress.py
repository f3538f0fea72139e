"""The progress bar on stderr: what is done, rate and time left."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress, TaskID

    #: Told what was done last, how much is done and how much there is: bytes, or what is counted.
    Update = Callable[[str, int, int], None]


@contextmanager
def progress_bar(
    title: str, *, shown: bool, at_once: bool = True, counts: str = ""
) -> Iterator[Update]:
    """Show a bar for as long as the block lasts; give the function that moves it.

    Work of several stages may use one bar: it starts afresh when the bytes in all change.

    Args:
        title: What the bar is called.
        shown: False for no bar; neither is there one where stderr is no terminal.
        at_once: False to draw it when it is first moved: work that goes on in the background
            then need not wait until Rich is loaded.
        counts: What is counted, in the plural; empty for bytes.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    bar = _Bar(title, counts)
    try:
        if at_once:
            bar.draw()
        yield bar.move
    finally:
        bar.clear()


class _Bar:
    """A bar that is drawn once and moved many times."""

    def __init__(self, title: str, counts: str) -> None:
        self._title, self._counts = title, counts
        self._drawn: tuple[Progress, TaskID] | None = None
        self._whole = 0

    def draw(self) -> tuple[Progress, TaskID]:
        """Draw the bar unless it is there."""
        if self._drawn is None:
            progress = _progress(self._counts)
            progress.start()
            self._drawn = progress, progress.add_task(self._title, total=None)
        return self._drawn

    def move(self, _what: str, done: int, total: int) -> None:
        """Show how much is done."""
        progress, task = self.draw()
        if total != self._whole:
            progress.reset(task, total=total)
            self._whole = total
        progress.update(task, completed=done)

    def clear(self) -> None:
        """Remove the bar."""
        if self._drawn is not None:
            self._drawn[0].stop()


def _progress(counts: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    in_bytes = (DownloadColumn(), TransferSpeedColumn())
    counted = (MofNCompleteColumn(), TextColumn(counts, markup=False))
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        *(counted if counts else in_bytes),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
