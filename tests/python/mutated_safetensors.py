"""Valid safetensors files with one or a few things changed, as Hypothesis strategies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

BITS = {"F32": 32, "BF16": 16, "I64": 64, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F4": 4, "C64": 64}
NUMBERS = st.sampled_from(
    (
        *(-1, 0, 1, 2, 3, 4, 7, 8, 255, 2**31, 2**32, 2**53, 2**61, 2**62),
        *(2**63 - 1, 2**63, 2**64 - 1, 2**64),
        *(1.0, 1.5, -0.0, 1e19, True, False, None, "1", [], [1], {}),
    )
)
NAMES = st.sampled_from(
    (
        *("a", "", "__metadata__", "a\0b", "a\nb", "\x1b[0m", "é", "\u202e", "\ufeff"),
        *("\U0001f600", "../x", "n" * 1000, "n" * 1001, "a b", "\u2028", "\x7f", "\xad"),
        *('"', "\\", "dtype"),
    )
)
FIELDS = st.sampled_from(["dtype", "shape", "data_offsets"])
METADATA = st.sampled_from(
    [None, {}, {"format": "pt"}, {"a": 1}, {"a": None}, [], "pt", {"": ""}, {"a": "\0"}, 7]
)
#: Ways to write the number 4, and what is not quite that.
FOURS = st.sampled_from([b"4", b"4.0", b"04", b"+4", b"4e0", b"-4", b"4 ", b"0x4", b"4,", b"\xff"])
TOKENS = st.sampled_from(
    (
        *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0061", b"\\ud800"),
        *(b"\\ud83d\\ude00", b"\0", b" ", b"\t", b"\n", b"\xef\xbb\xbf", b"\xff", b"-0"),
        *(b"NaN", b"null", b"//", b"1e999"),
    )
)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A valid header and the bytes of data that it describes."""
    header: dict[str, Any] = {}
    position = 0
    for number in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(list(BITS)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        if dtype == "F4":
            shape = [*shape, 2]
        count = 1
        for length in shape:
            count *= length
        end = position + count * BITS[dtype] // 8
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    if draw(st.booleans()):
        header["__metadata__"] = {"format": "pt"}
    return header, position


def _tensor(draw: st.DrawFn, header: dict[str, Any]) -> dict[str, Any]:
    names = [name for name, info in header.items() if isinstance(info, dict) and "dtype" in info]
    return header[draw(st.sampled_from(names))] if names else {}


def _offset(draw: st.DrawFn, header: dict[str, Any]) -> None:
    offsets = _tensor(draw, header).get("data_offsets")
    if isinstance(offsets, list) and offsets:
        place = draw(st.integers(0, len(offsets) - 1))
        moved = draw(st.sampled_from([-8, -1, 1, 4, 8]) | NUMBERS)
        small = isinstance(moved, int) and abs(moved) <= 8 and isinstance(offsets[place], int)
        offsets[place] = offsets[place] + moved if small else moved


def _dimension(draw: st.DrawFn, header: dict[str, Any]) -> None:
    shape = _tensor(draw, header).get("shape")
    if isinstance(shape, list):
        shape[draw(st.integers(0, 3)) : draw(st.integers(0, 4))] = draw(
            st.lists(NUMBERS, max_size=3) | st.just([1] * 33)
        )


def _dtype(draw: st.DrawFn, header: dict[str, Any]) -> None:
    dtypes = st.sampled_from([*BITS, "F16", "f32", "F6_E2M3", "", "F32 "])
    _tensor(draw, header)["dtype"] = draw(dtypes | NUMBERS)


def _field(draw: st.DrawFn, header: dict[str, Any]) -> None:
    tensor = _tensor(draw, header)
    if draw(st.booleans()):
        tensor.pop(draw(FIELDS), None)
    else:
        tensor[draw(NAMES)] = draw(NUMBERS)


def _rename(draw: st.DrawFn, header: dict[str, Any]) -> None:
    if header:
        header[draw(NAMES)] = header.pop(draw(st.sampled_from(list(header))))


def _more(draw: st.DrawFn, header: dict[str, Any]) -> None:
    shape = draw(st.lists(NUMBERS, max_size=3))
    offsets = draw(st.lists(st.integers(0, 32), min_size=2, max_size=2))
    header["more"] = {"dtype": "U8", "shape": shape, "data_offsets": offsets}


def _metadata(draw: st.DrawFn, header: dict[str, Any]) -> None:
    header["__metadata__"] = draw(METADATA)


def _order(draw: st.DrawFn, header: dict[str, Any]) -> None:
    items = draw(st.permutations(list(header.items())))
    header.clear()
    header.update(items)


_HEADER: tuple[Callable[[st.DrawFn, dict[str, Any]], None], ...] = (
    _offset,
    _dimension,
    _dtype,
    _field,
    _rename,
    _more,
    _metadata,
    _order,
)


def _text(draw: st.DrawFn, text: bytes) -> bytes:
    """Change the text of a header: a token put in, a part twice, a number written otherwise."""
    place = draw(st.integers(0, len(text)))
    action = draw(st.sampled_from(["token", "cut", "twice", "four", "spaces", "escape"]))
    if action == "token":
        return text[:place] + draw(TOKENS) + text[place:]
    if action == "cut":
        return text[:place] + text[place + draw(st.integers(1, 5)) :]
    if action == "twice":
        body = text[1:-1]
        return b"{" + body + b"," + body + b"}" if body else text
    if action == "four":
        return text.replace(b"4", draw(FOURS), 1)
    if action == "spaces":
        return draw(st.sampled_from([b" " + text, text + b"    ", text + b"\n", text + b"\0"]))
    return text.replace(b"t", b"\\u0074", 1)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A valid file after up to three changes."""
    header, size = draw(layouts())
    for change in draw(st.lists(st.sampled_from(_HEADER), max_size=2)):
        change(draw, header)
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")
    if draw(st.integers(0, 2)) == 0:
        text = _text(draw, text)
    length = len(text) + draw(st.sampled_from([0] * 12 + [-1, 1, 8, 2**31, 2**63, -len(text)]))
    data = bytes(max(0, size + draw(st.sampled_from([0] * 12 + [-1, 1, 4]))))
    return (length % 2**64).to_bytes(8, "little") + text + data
