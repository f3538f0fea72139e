"""The progress bar on stderr: bytes done, rate and time left."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

    #: Told what was done last, bytes done and bytes in all.
    Update = Callable[[str, int, int], None]


@contextmanager
def progress_bar(title: str, *, shown: bool) -> Iterator[Update]:
    """Show a bar for as long as the block lasts; give the function that moves it.

    Work of several stages may use one bar: it starts afresh when the bytes in all change.

    Args:
        title: What the bar is called.
        shown: False for no bar; neither is there one where stderr is no terminal.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    with _bar() as bar:
        task = bar.add_task(title, total=None)
        whole = 0

        def update(_what: str, done: int, total: int) -> None:
            nonlocal whole
            if total != whole:
                bar.reset(task, total=total)
                whole = total
            bar.update(task, completed=done)

        yield update


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
