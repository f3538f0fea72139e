"""The header of a GGUF file (versions 2 and 3): metadata and validated extents of its tensors.

As with safetensors, what passes can be used without further checks: extents lie inside the file
in their order, sizes fit shapes, names are printable and occur once. Stricter than llama.cpp in
what it takes for a name, and in how much a header may hold.
"""

from __future__ import annotations

import math
import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from loragraft.errors import FormatError
from loragraft.ggml.tensor_types import TYPES
from loragraft.input_file import FileIdentity, InputFile
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_ALIGNMENT_KEY: Final = "general.alignment"
_ALIGNMENT: Final = 32
#: ggml's own bounds: dimensions of a tensor, and bytes of its name with the final zero.
_MAX_DIMENSIONS: Final = 4
_MAX_NAME: Final = 64
_INT_LIMIT: Final = 2**63
#: Ours: headers hold vocabularies of a few hundred thousand words.
_MAX_HEADER_BYTES: Final = 1 << 28
_MAX_ELEMENTS: Final = 1 << 23
_MAX_ENTRIES: Final = 1 << 20
_KEPT: Final = 1 << 12
_CHUNK: Final = 1 << 20
_STRING: Final = 8
_ARRAY: Final = 9
#: Code of a value's type -> its form; strings and arrays have lengths of their own.
_FORMS: Final = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}


class GgufTensor(NamedTuple):
    """One tensor: its name, ggml type, shape with rows last but one, and where it lies."""

    name: str
    type: str
    shape: tuple[int, ...]
    begin: int
    end: int


class LongArray(NamedTuple):
    """An array of the metadata that is not kept, such as a vocabulary."""

    length: int


class GgufHeader(NamedTuple):
    """A valid header.

    Attributes:
        metadata: Key -> number, bool, string, or list of these; long arrays are `LongArray`.
        tensors: Extents by name, in the order in which they lie in the file.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    def text(self, key: str) -> str:
        """Return a string of the metadata, empty where there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""


def is_gguf(path: Path) -> bool:
    """Say whether a file is a GGUF by its first bytes; False where it cannot be read."""
    try:
        with InputFile(path) as file:
            return file.identity.size >= len(MAGIC) and file.read(len(MAGIC), 0) == MAGIC
    except FormatError:
        return False


def read_gguf_header(path: Path) -> tuple[GgufHeader, FileIdentity]:
    """Read and validate the header of a GGUF file.

    Returns:
        The header, and what the file was at that time.

    Raises:
        FormatError: The file cannot be read, is no regular file, or is malformed.
    """
    with InputFile(path) as file:
        return _Parser(file).header(), file.identity


class _Parser:
    """Reads a header from its beginning, a chunk of the file at a time."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._where = shown(file.path)
        self._data = b""
        self._start = 0
        self._position = 0
        self._elements = 0

    def header(self) -> GgufHeader:
        if self._file.identity.size < len(MAGIC) or self._take(len(MAGIC)) != MAGIC:
            self._fail("it does not begin with GGUF")
        version = self._number("<I")
        if version not in _VERSIONS:
            self._fail(f"version {version}, expected 2 or 3 in little-endian order")
        tensors, entries = self._count("tensors"), self._count("metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._name("key")
            if key in metadata:
                self._fail(f"the key {quoted(key)} occurs twice")
            metadata[key] = self._value(self._number("<I"), key)
        infos = [self._info() for _ in range(tensors)]
        extents = self._extents(infos, self._alignment(metadata))
        return GgufHeader(MappingProxyType(metadata), MappingProxyType(extents))

    def _fail(self, what: str) -> NoReturn:
        raise FormatError(f"{self._where}: not a valid GGUF file: {what}")

    def _take(self, count: int) -> bytes:
        """Return the next bytes of the file."""
        begin = self._position - self._start
        if begin + count > len(self._data):
            self._fill(count)
            begin = 0
        self._position += count
        return self._data[begin : begin + count]

    def _fill(self, count: int) -> None:
        left = self._file.identity.size - self._position
        if count > left:
            self._fail(f"the header ends after {self._file.identity.size} bytes; is it complete?")
        if self._position + count > _MAX_HEADER_BYTES:
            self._fail(f"a header of more than {_MAX_HEADER_BYTES} bytes")
        self._data = self._file.read(min(left, max(count, _CHUNK)), self._position)
        self._start = self._position

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _count(self, what: str) -> int:
        count: int = self._number("<Q")
        if count > _MAX_ENTRIES:
            self._fail(f"{count} {what}, expected at most {_MAX_ENTRIES}")
        return count

    def _string(self) -> bytes:
        length = self._number("<Q")
        if length > self._file.identity.size:
            self._fail(f"a string of {length} bytes in a file of {self._file.identity.size}")
        return self._take(length)

    def _name(self, what: str) -> str:
        raw = self._string()
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            self._fail(f"the {what} {quoted(raw)} is not UTF-8")
        if not name or not name.isprintable():
            self._fail(f"the {what} {quoted(name)} is empty or not printable")
        return name

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            # Vocabularies and templates of real files are not always UTF-8.
            return self._string().decode("utf-8", "replace")
        if kind == _ARRAY:
            return self._array(key)
        form = _FORMS.get(kind)
        if form is None:
            self._fail(f"{quoted(key)} has a value of the unknown type {kind}")
        return self._number(form)

    def _array(self, key: str) -> list[Any] | LongArray:
        kind, count = self._number("<I"), self._number("<Q")
        self._elements += count
        if self._elements > _MAX_ELEMENTS:
            self._fail(f"{quoted(key)}: arrays of more than {_MAX_ELEMENTS} elements in all")
        if kind == _STRING:
            if count <= _KEPT:
                return [self._string().decode("utf-8", "replace") for _ in range(count)]
            for _ in range(count):
                self._string()
            return LongArray(count)
        form = _FORMS.get(kind)
        if form is None:
            self._fail(f"{quoted(key)} is an array of the type {kind}, expected numbers or strings")
        data = self._take(count * struct.calcsize(form))
        if count > _KEPT:
            return LongArray(count)
        return [value for (value,) in struct.iter_unpack(form, data)]

    def _info(self) -> tuple[str, str, tuple[int, ...], int, int]:
        """Return name, type, shape, offset in the data and size of the next tensor."""
        name = self._name("tensor name")
        if len(name.encode()) >= _MAX_NAME:
            self._fail(f"the tensor name {quoted(name)} has {_MAX_NAME} bytes or more")
        dimensions = self._number("<I")
        if dimensions > _MAX_DIMENSIONS:
            self._fail(f"tensor {quoted(name)} has {dimensions} dimensions, expected at most 4")
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
        code, offset = self._number("<I"), self._number("<Q")
        kind = TYPES.get(code)
        if kind is None:
            self._fail(f"tensor {quoted(name)} has the unknown type {code}")
        count = math.prod(shape)
        if 0 in shape or count >= _INT_LIMIT:
            self._fail(f"tensor {quoted(name)} has the shape {list(shape)}, expected 1 to 2^63 - 1")
        if (shape[-1] if shape else 1) % kind.block:
            self._fail(
                f"tensor {quoted(name)} of shape {list(shape)} is {kind.name}: expected rows of a"
                f" multiple of {kind.block}"
            )
        return name, kind.name, shape, offset, count // kind.block * kind.nbytes

    def _alignment(self, metadata: Mapping[str, Any]) -> int:
        alignment = metadata.get(_ALIGNMENT_KEY, _ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            self._fail(f"{_ALIGNMENT_KEY} is {quoted(alignment)}, expected a power of two")
        return alignment

    def _extents(
        self, infos: list[tuple[str, str, tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, GgufTensor]:
        data_start = -(-self._position // alignment) * alignment
        extents: dict[str, GgufTensor] = {}
        place = 0
        for name, kind, shape, offset, size in infos:
            if name in extents:
                self._fail(f"the tensor name {quoted(name)} occurs twice")
            if offset != place:
                self._fail(
                    f"tensor {quoted(name)} begins at byte {offset} of the data, expected {place}"
                )
            end = data_start + offset + size
            if end > self._file.identity.size:
                self._fail(
                    f"truncated: tensor {quoted(name)} ends at byte {end} of a file of"
                    f" {self._file.identity.size}; fetch it again"
                )
            extents[name] = GgufTensor(name, kind, shape, data_start + offset, end)
            place += -(-size // alignment) * alignment
        return extents
