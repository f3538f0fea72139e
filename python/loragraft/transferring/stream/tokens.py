"""The tokens that two vocabularies share, from the tokenizer.json of each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from loragraft.errors import FormatError, MismatchError
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from loragraft.checkpoint import Checkpoint

TOKENIZER: Final = "tokenizer.json"
_MOST_BYTES: Final = 200_000_000
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LETTERS: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


class SharedTokens(NamedTuple):
    """Rows of two embeddings that stand for the same token.

    Attributes:
        source: Rows of the source's embedding, ascending, (n,).
        target: Rows of the target's, in the same order.
        note: What a reader must know of how they were found; empty where there is nothing.
    """

    source: NDArray[np.intp]
    target: NDArray[np.intp]
    note: str = ""


def shared_tokens(source: Checkpoint, target: Checkpoint, sizes: tuple[int, int]) -> SharedTokens:
    """Find the tokens that both vocabularies have.

    Args:
        source: The source model.
        target: The target model.
        sizes: Rows of their embeddings.

    Raises:
        FormatError: A tokenizer.json cannot be read.
        MismatchError: One side has none, or neither has and the sizes differ.
    """
    files = [side.directory / TOKENIZER for side in (source, target)]
    missing = [shown(file) for file in files if not file.exists()]
    if len(missing) == 2 and sizes[0] == sizes[1]:
        rows = np.arange(sizes[0])
        note = f"neither side has a {TOKENIZER}: tokens of the same number are taken for the same"
        return SharedTokens(rows, rows, note)
    if missing:
        raise MismatchError(
            f"{missing[0]}: is missing; shared-vocab pairs tokens by it: put the model's"
            f" {TOKENIZER} there, or choose another --method"
        )
    own, other = (read_tokens(file) for file in files)
    pairs = sorted(
        (row, other[token])
        for token, row in own.items()
        if token in other and row < sizes[0] and other[token] < sizes[1]
    )
    found = np.array(pairs, np.intp).reshape(-1, 2)
    return SharedTokens(found[:, 0], found[:, 1])


def read_tokens(path: Path) -> dict[bytes, int]:
    """Return the tokens of a tokenizer.json as the bytes that they stand for -> number.

    Byte-level vocabularies write each byte as a letter of its own (GPT-2), others a space as ▁ and
    single bytes as <0x0A> (SentencePiece); what is left is the text itself.

    Raises:
        FormatError: It cannot be read, or has no vocabulary.
    """
    data = parse_object(read_bytes(path, _MOST_BYTES), shown(path))
    model = data.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):
        vocab = {one[0]: row for row, one in enumerate(vocab) if isinstance(one, list) and one}
    if not isinstance(vocab, dict) or not vocab:
        raise FormatError(f"{shown(path)}: has no model.vocab; fetch the tokenizer again")
    letters = _byte_letters() if _is_byte_level(data) else None
    found: dict[bytes, int] = {}
    for token, row in (*_added(data), *vocab.items()):
        if isinstance(token, str) and type(row) is int and row >= 0:
            found.setdefault(_content(token, letters), row)
    return found


def _added(data: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return the added tokens, special ones and such as stand for themselves."""
    added = data.get("added_tokens")
    rows = added if isinstance(added, list) else []
    return [(row.get("content"), row.get("id")) for row in rows if isinstance(row, dict)]


def _is_byte_level(data: Mapping[str, Any]) -> bool:
    """Say whether a tokenizer's parts speak of bytes as letters."""
    parts = [data.get("decoder"), data.get("pre_tokenizer")]
    for part in parts:
        if isinstance(part, dict):
            parts += [part, *part.get("decoders", []), *part.get("pretokenizers", [])][1:]
            if part.get("type") == "ByteLevel":
                return True
    return False


def _content(token: str, letters: Mapping[str, int] | None) -> bytes:
    if letters is not None:
        if all(letter in letters for letter in token):
            return bytes(letters[letter] for letter in token)
        return token.encode("utf-8", "surrogatepass")
    byte = _BYTE.fullmatch(token)
    if byte:
        return bytes([int(byte[1], 16)])
    return token.replace("▁", " ").encode("utf-8", "surrogatepass")


def _byte_letters() -> dict[str, int]:
    """Return GPT-2's letters: printable Latin-1 for itself, the rest from U+0100 on."""
    others = (byte for byte in range(256) if byte not in _LETTERS)
    return {chr(byte): byte for byte in _LETTERS} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }
