"""The header of a safetensors file: bytes and a file size in, validated extents out.

Everything here is decided before a single weight is read. What passes can be used without
further checks: extents lie inside the file, do not overlap and leave no gap, sizes fit shapes,
names are printable.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from loragraft.errors import FormatError
from loragraft.input_file import FileIdentity, InputFile
from loragraft.json_text import parse_object
from loragraft.number_formats import DTYPES
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MAX_HEADER_BYTES: Final = 100_000_000
_LENGTH_BYTES: Final = 8
_INT_LIMIT: Final = 2**63
#: The most that NumPy 1 can hold.
_MAX_DIMENSIONS: Final = 32
#: Names are taken apart and matched, which may take the square of their length.
_MAX_NAME: Final = 1000
_BITS: Final = {code: dtype.bits for code, dtype in DTYPES.items()}
_FIELDS: Final = {"dtype", "shape", "data_offsets"}


class TensorExtent(NamedTuple):
    """One tensor and where it lies: bytes ``begin`` to ``end`` of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """A valid header.

    Attributes:
        tensors: Extents by name, in the order in which they lie in the file.
        metadata: The file's own notes (``__metadata__``); empty when it has none.
        data_start: Offset of the first byte after the header.
    """

    tensors: Mapping[str, TensorExtent]
    metadata: Mapping[str, str]
    data_start: int


def parse_header(head: bytes, file_size: int, where: str) -> Header:
    """Parse and validate a header.

    Args:
        head: The first ``8 + n`` bytes of the file, n being the number in its first 8 bytes.
        file_size: Size of the whole file in bytes.
        where: The file, for messages.

    Raises:
        FormatError: The header is not one that the format allows, or does not fit the file.
    """
    length = _header_length(head[:_LENGTH_BYTES], file_size, where)
    data_start = _LENGTH_BYTES + length
    text = head[_LENGTH_BYTES:data_start]
    if len(text) < length:
        _fail(where, f"the header ends after {len(text)} of {length} bytes")
    if text[:1] != b"{":
        _fail(where, f"the header starts with {quoted(text[:8])}, expected '{{'")
    fields = parse_object(text, f"{where}: safetensors header")
    metadata = _metadata(fields.pop("__metadata__", {}), where)
    extents = [_extent(name, info, data_start, where) for name, info in fields.items()]
    extents.sort(key=lambda extent: (extent.begin, extent.end))
    _check_cover(extents, data_start, file_size, where)
    tensors = MappingProxyType({extent.name: extent for extent in extents})
    return Header(tensors, MappingProxyType(metadata), data_start)


def read_header(path: Path) -> Header:
    """Read and validate the header of a safetensors file.

    Raises:
        FormatError: The file cannot be read, is no regular file, or is malformed.
    """
    return read_identified_header(path)[0]


def read_identified_header(path: Path) -> tuple[Header, FileIdentity]:
    """Read a header, and what the file was at that time; raises as `read_header` does."""
    where = shown(path)
    with InputFile(path) as file:
        size = file.identity.size
        start = file.read(min(_LENGTH_BYTES, size), 0)
        length = _header_length(start, size, where)
        head = start + file.read(length, _LENGTH_BYTES)
        return parse_header(head, size, where), file.identity


def _fail(where: str, what: str) -> NoReturn:
    raise FormatError(f"{where}: not a valid safetensors file: {what}")


def _header_length(start: bytes, file_size: int, where: str) -> int:
    if len(start) < _LENGTH_BYTES or file_size < _LENGTH_BYTES:
        _fail(where, f"{file_size} bytes, expected at least {_LENGTH_BYTES}; is it complete?")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        _fail(where, f"a header of {length} bytes, expected at most {MAX_HEADER_BYTES}")
    if length > file_size - _LENGTH_BYTES:
        _fail(where, f"a header of {length} bytes in a file of {file_size}; is it complete?")
    return length


def _is_unicode(text: str) -> bool:
    """Whether a string has no lone surrogates, which JSON escapes can smuggle in."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        _fail(where, f"__metadata__ is {quoted(value)}, expected an object of strings")
    for key, text in value.items():
        if not isinstance(text, str):
            _fail(where, f"__metadata__ {quoted(key)} is {quoted(text)}, expected a string")
        if not (_is_unicode(key) and _is_unicode(text)):
            _fail(where, f"__metadata__ {quoted(key)} holds a lone surrogate")
    return value


def _extent(name: str, info: Any, data_start: int, where: str) -> TensorExtent:
    if not name or not name.isprintable():
        _fail(where, f"the tensor name {quoted(name)} is empty or not printable")
    if len(name) > _MAX_NAME:
        _fail(where, f"the tensor name {quoted(name)} has more than {_MAX_NAME:,} characters")
    if not isinstance(info, dict) or info.keys() != _FIELDS:
        _fail(
            where,
            f"tensor {quoted(name)} has {_describe(info)}, expected dtype, shape and data_offsets",
        )
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        _fail(where, f"tensor {quoted(name)} has the unknown dtype {quoted(dtype)}")
    size = _size_bytes(name, shape, bits, where)
    if not _is_integers(offsets) or len(offsets) != 2:
        _fail(where, f"tensor {quoted(name)} has data_offsets {quoted(offsets)}, expected two ints")
    begin, end = offsets
    if end - begin != size:
        _fail(
            where,
            f"tensor {quoted(name)} has {end - begin} bytes ({begin} to {end}), expected {size}"
            f" for {dtype} of shape {quoted(shape)}",
        )
    return TensorExtent(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _describe(info: Any) -> str:
    return f"the fields {quoted(sorted(info))}" if isinstance(info, dict) else quoted(info)


def _is_integers(values: Any) -> bool:
    """Whether `values` is a list of JSON integers from 0 to 2^63 - 1."""
    if not isinstance(values, list):
        return False
    # bool is a subclass of int, hence the exact type.
    if not set(map(type, values)) <= {int}:
        return False
    return not values or (min(values) >= 0 and max(values) < _INT_LIMIT)


def _size_bytes(name: str, shape: Any, bits: int, where: str) -> int:
    if not _is_integers(shape) or len(shape) > _MAX_DIMENSIONS:
        _fail(
            where,
            f"tensor {quoted(name)} has the shape {quoted(shape)}, expected a list of at most"
            f" {_MAX_DIMENSIONS} integers from 0 to 2^63 - 1",
        )
    total = bits
    empty = False
    for dimension in shape:
        # Zeros are left out so that the answer does not depend on where in the shape they stand.
        if dimension:
            total *= dimension
        else:
            empty = True
    if total >= _INT_LIMIT:
        _fail(where, f"tensor {quoted(name)} of shape {quoted(shape)} is larger than 2^63 bits")
    if empty:
        return 0
    if total % 8:
        _fail(where, f"tensor {quoted(name)} of shape {quoted(shape)} does not fill whole bytes")
    return total // 8


def _check_cover(extents: Iterable[TensorExtent], start: int, end: int, where: str) -> None:
    """Check that the tensors cover the data exactly: no overlap, no hole, no tail."""
    position = start
    for extent in extents:
        if extent.begin != position:
            kind = "overlaps the one before it" if extent.begin < position else "leaves a hole"
            _fail(
                where,
                f"tensor {quoted(extent.name)} {kind}: it begins at byte {extent.begin - start} of"
                f" the data, expected {position - start}",
            )
        position = extent.end
    if position > end:
        _fail(where, f"truncated: {position} bytes described, {end} in the file; fetch it again")
    if position < end:
        _fail(where, f"{end - position} bytes follow the last tensor, expected none")
