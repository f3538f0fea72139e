"""Our reader of headers and the official one on the same bytes, and how they may differ."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import safetensors

from loragraft.errors import FormatError
from loragraft.safetensors_header import Header, parse_header

#: What the official reader takes and ours refuses: as docs/formats.md calls it -> what ours says.
CLASSES: Final = {
    "a key that appears twice, among tensors, fields or metadata": r"appears twice in one object$",
    "a header that does not begin with `{` (leading spaces)": r"the header starts with",
    "a field other than `dtype`, `shape` and `data_offsets`": r"has the fields .*'data_offsets'.*,"
    r" expected dtype, shape and data_offsets$",
    '`"__metadata__": null`': r"__metadata__ is None, expected",
    "a tensor name that is empty or not printable (NUL, newline, escape codes, invisible or"
    " bidirectional marks)": r"is empty or not printable$",
    "a tensor name of more than 1,000 characters": r"has more than 1,000 characters$",
    "a dimension of 2^63 or more, or dimensions whose product overflows, in a tensor that is empty"
    " because another is 0": r"larger than 2\^63 bits$|integers from 0 to 2\^63 - 1$",
    "more than 32 dimensions": r"expected a list of at most 32 integers",
}


def ours(content: bytes) -> Header | str:
    """What we make of a file: its header, or why not."""
    length = int.from_bytes(content[:8], "little")
    try:
        return parse_header(content[: 8 + length], len(content), "x")
    except FormatError as error:
        return str(error)


def theirs(content: bytes) -> dict[str, Any] | None:
    """What the official reader makes of it: its tensors, or nothing."""
    try:
        return dict(safetensors.deserialize(content))
    except safetensors.SafetensorError:
        return None


def difference(content: bytes) -> str:
    """The class of difference between the two readers; empty where they agree.

    Raises:
        AssertionError: They differ in a way that has no class.
    """
    own, official = ours(content), theirs(content)
    if official is None:
        assert isinstance(own, str), ("only the official reader refuses", content[:2000])
        return ""
    if isinstance(own, Header):
        _check_same(own, official, content)
        return ""
    for name, pattern in CLASSES.items():
        if re.search(pattern, own) and _is_so(name, content):
            return name
    raise AssertionError(f"only we refuse, and say {own!r}: {content[:2000]!r}")


def _is_so(name: str, content: bytes) -> bool:
    """Say whether the header itself bears out a class that the message alone does not tell."""
    if "dimension" not in name:
        return True
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    shapes = [info["shape"] for name, info in header.items() if name != "__metadata__"]
    if name.startswith("more than 32"):
        return any(len(shape) > 32 for shape in shapes)
    return any(0 in shape and len(shape) <= 32 for shape in shapes)


def _check_same(own: Header, official: dict[str, Any], content: bytes) -> None:
    assert own.tensors.keys() == official.keys()
    for name, tensor in own.tensors.items():
        other = official[name]
        assert tensor.dtype == other["dtype"], name
        assert list(tensor.shape) == other["shape"], name
        assert content[tensor.begin : tensor.end] == bytes(other["data"]), name
