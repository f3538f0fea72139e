"""Texts that fidelity is measured on: the user's, or the one that the package has."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from loragraft.errors import FormatError
from loragraft.input_file import read_bytes
from loragraft.wording import shown, size

#: Bytes beyond which a file was surely not meant: days of computing.
_LARGEST: Final = 64 << 20
_MARK: Final = "\ufeff"
_OWN: Final = Path(__file__).parent / "data" / "fidelity_text.txt"
_OWN_NAME: Final = (
    "English prose of the 19th century that loragraft brings along (Faraday, Doyle, Lincoln)"
)


class FidelityText(NamedTuple):
    """A text on which models are compared.

    Attributes:
        name: What it is, in words or as a path.
        text: All of it.
    """

    name: str
    text: str

    def digest(self) -> str:
        """Return a hash of the text, whatever it is called."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()


def read_text(path: Path | None = None) -> FidelityText:
    """Read a text in UTF-8; a byte order mark before it is dropped.

    Args:
        path: Of the file; None for the text that the package has, which is English only and in the
            public domain.

    Raises:
        FormatError: The file cannot be read, is not UTF-8, or has no text in it.
    """
    file = _OWN if path is None else path
    data = read_bytes(file, _LARGEST)
    try:
        text = data.decode("utf-8").removeprefix(_MARK)
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{shown(file)}: byte {error.start} is 0x{data[error.start]:02x}, which is no UTF-8"
            f" ({error.reason}): save the text as UTF-8"
        ) from error
    if not text.strip():
        raise FormatError(
            f"{shown(file)}: has no text in it ({size(len(data))}): give some pages of what the"
            " tuned model is for"
        )
    return FidelityText(_OWN_NAME if path is None else shown(path), text)
