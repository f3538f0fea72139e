"""The journal of an evaluation after a crash: what it holds whole is kept, the rest asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loragraft.errors import UsageError
from loragraft.evaluation.journal import ITEMS_FILE, Journal, Setting

if TYPE_CHECKING:
    from pathlib import Path

SETTING = Setting({"arc": "1"}, {"base": "2"}, "fp32", 100, None)


def written(directory: Path) -> bytes:
    """A journal of two questions."""
    journal = Journal.begin(directory)
    journal.agree(SETTING)
    journal.record("arc", "base", ["a", "b"], {0: (-1.0, -2.0), 1: (-3.0, -4.0)})
    journal.close()
    return (directory / ITEMS_FILE).read_bytes()


def test_cut_short_anywhere(tmp_path: Path) -> None:
    whole = written(tmp_path)
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        (tmp_path / ITEMS_FILE).write_bytes(whole[:length])
        journal = Journal.go_on(tmp_path)
        journal.agree(SETTING)
        assert journal.known == max(0, sum(end < length for end in ends) - 1)
        known = journal.known
        journal.close()
        # Without results there is nothing to go on with, and no file.
        again = Journal.go_on(tmp_path)
        assert again.setting == (SETTING if known else None)
        again.close()


@pytest.mark.parametrize("content", [b"notes", b"one\ntwo", b"{}\n", b'{"schema": "another/1"}\n'])
def test_the_file_of_somebody_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ITEMS_FILE).write_bytes(content)
    with pytest.raises(UsageError, match=r"was not written by an evaluation.*--force"):
        Journal.go_on(tmp_path)
    assert (tmp_path / ITEMS_FILE).read_bytes() == content
