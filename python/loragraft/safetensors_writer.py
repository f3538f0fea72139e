"""Write safetensors files: the layout is fixed first, the tensors come in any order."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from loragraft.atomic_file import AtomicFile, write_bytes_atomic, write_text_atomic
from loragraft.errors import FormatError
from loragraft.number_formats import DTYPES
from loragraft.safetensors_header import parse_header
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self

    import numpy as np

    #: Name, dtype code and shape of a tensor.
    Layout = tuple[str, str, tuple[int, ...]]

__all__ = ["SafetensorsWriter", "write_bytes_atomic", "write_text_atomic"]

_ALIGNMENT: Final = 8
_LONGEST_CODE: Final = {
    dtype.bits: max(len(other.code) for other in DTYPES.values() if other.bits == dtype.bits)
    for dtype in DTYPES.values()
}


@dataclass(slots=True)
class _Slot:
    """A tensor's place in the data, and which of its bytes have been written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    written: list[tuple[int, int]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.begin == self.end or self.written == [(0, self.end - self.begin)]

    def mark(self, start: int, stop: int) -> None:
        if self.written and self.written[-1][1] == start:
            self.written[-1] = (self.written[-1][0], stop)
        elif stop > start:
            self.written.append((start, stop))
        if len(self.written) > 1:
            self.written = _merged(self.written)


class SafetensorsWriter:
    """A safetensors file under construction, which appears at its path on `commit`.

    Disk space is taken at once, so that a full disk is known before any work is done. The same
    layout, metadata and tensors give the same bytes, in whatever order they are written. One
    thread at a time may use a writer.
    """

    def __init__(
        self,
        path: Path,
        layout: Sequence[Layout],
        metadata: Mapping[str, str] | None = None,
        *,
        overwrite: bool = True,
    ) -> None:
        """Lay the file out and take its disk space.

        Args:
            path: Destination; its directory must exist.
            layout: Name, dtype code and shape of every tensor. They are stored in this order,
                those with wider dtypes first, so that each is aligned.
            metadata: Notes for ``__metadata__``; stored sorted by key.
            overwrite: Whether an existing file may be replaced.

        Raises:
            FormatError: The layout cannot be stored, the disk is full, or writing is not allowed.
            UsageError: The file exists and `overwrite` is false.
        """
        self._metadata = dict(sorted((metadata or {}).items()))
        slots = _placed(layout, shown(path))
        self._data_size = slots[-1].end if slots else 0
        self._slots = {slot.name: slot for slot in slots}
        self._header_size = _header_size(self._metadata, slots)
        parse_header(_header(self._metadata, slots, self._header_size), self.nbytes, shown(path))
        self._file = AtomicFile(path, overwrite=overwrite)
        try:
            self._file.reserve(self.nbytes)
        except BaseException:
            self._file.abort()
            raise

    @property
    def nbytes(self) -> int:
        """Size of the finished file in bytes."""
        return _ALIGNMENT + self._header_size + self._data_size

    def write(self, name: str, data: bytes | memoryview | np.ndarray[Any, Any]) -> None:
        """Write a whole tensor.

        Args:
            name: A tensor of the layout.
            data: Its elements in row-major order, in the layout's dtype (BF16 as ``uint16``).

        Raises:
            KeyError: The layout has no such tensor.
            ValueError: `data` has another size than the tensor.
            FormatError: The disk is full or fails.
        """
        slot, flat = self._slots[name], _flat(data)
        if len(flat) != slot.end - slot.begin:
            raise ValueError(f"{name}: got {len(flat)} bytes, expected {slot.end - slot.begin}")
        self._write(slot, flat, 0)

    def write_part(
        self, name: str, data: bytes | memoryview | np.ndarray[Any, Any], byte_offset: int
    ) -> None:
        """Write a part of a tensor, `byte_offset` bytes from its beginning.

        Raises:
            KeyError: The layout has no such tensor.
            ValueError: The part reaches beyond the tensor.
            FormatError: The disk is full or fails.
        """
        slot, flat = self._slots[name], _flat(data)
        size = slot.end - slot.begin
        if not 0 <= byte_offset <= size - len(flat):
            raise ValueError(f"{name}: {len(flat)} bytes at {byte_offset} do not fit {size} bytes")
        self._write(slot, flat, byte_offset)

    def _write(self, slot: _Slot, flat: memoryview, start: int) -> None:
        self._file.write(flat, _ALIGNMENT + self._header_size + slot.begin + start)
        slot.mark(start, start + len(flat))

    def set_dtype(self, name: str, code: str) -> None:
        """Change a tensor's dtype to another of the same width, such as F16 to BF16.

        Bytes already written stay as they are.

        Raises:
            KeyError: The layout has no such tensor.
            ValueError: `code` is unknown or has another width.
        """
        slot = self._slots[name]
        if code not in DTYPES or DTYPES[code].bits != DTYPES[slot.dtype].bits:
            raise ValueError(f"{name}: {code} cannot take the place of {slot.dtype}")
        slot.dtype = code

    def commit(self) -> None:
        """Write the header and put the file in its place; on an error nothing is left.

        Raises:
            RuntimeError: A tensor has not been written completely, or the file is done already.
            FormatError: The disk is full or fails.
            UsageError: The file has come into being meanwhile and may not be replaced.
        """
        try:
            missing = [slot.name for slot in self._slots.values() if not slot.complete]
            if missing:
                raise RuntimeError(
                    f"{shown(self._file.path)}: {len(missing)} tensors are not written completely,"
                    f" such as {quoted(missing[0])}"
                )
            self._file.write(_header(self._metadata, self._slots.values(), self._header_size), 0)
        except BaseException:
            self._file.abort()
            raise
        self._file.commit()

    def abort(self) -> None:
        """Give the file up and remove what was written of it."""
        self._file.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()
        elif not self._file.closed:
            self.commit()


def _placed(layout: Iterable[Layout], where: str) -> list[_Slot]:
    """Give every tensor its place, wider dtypes first."""
    entries = [(name, code, tuple(map(int, shape))) for name, code, shape in layout]
    seen: set[str] = set()
    for name, code, _ in entries:
        if code not in DTYPES:
            raise FormatError(f"{where}: tensor {quoted(name)} has the unknown dtype {code!r}")
        if name in seen or name == "__metadata__":
            raise FormatError(f"{where}: the tensor name {quoted(name)} is taken already")
        seen.add(name)
    entries.sort(key=lambda entry: -DTYPES[entry[1]].bits)
    slots, position = [], 0
    for name, code, shape in entries:
        bits = DTYPES[code].bits
        for dimension in shape:
            bits *= dimension
        slots.append(_Slot(name, code, shape, position, position + bits // 8))
        position = slots[-1].end
    return slots


def _header_text(metadata: Mapping[str, str], slots: Iterable[_Slot]) -> bytes:
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for slot in slots:
        fields[slot.name] = {
            "dtype": slot.dtype,
            "shape": slot.shape,
            "data_offsets": (slot.begin, slot.end),
        }
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate cannot be encoded; escaped it reaches the checks of the parser.
    return text.encode("utf-8", "backslashreplace")


def _header_size(metadata: Mapping[str, str], slots: Sequence[_Slot]) -> int:
    """Return the size of the header with room for the longest dtype code of each width."""
    slack = sum(_LONGEST_CODE[DTYPES[slot.dtype].bits] - len(slot.dtype) for slot in slots)
    size = len(_header_text(metadata, slots)) + slack
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _header(metadata: Mapping[str, str], slots: Iterable[_Slot], size: int) -> bytes:
    return size.to_bytes(_ALIGNMENT, "little") + _header_text(metadata, slots).ljust(size)


def _flat(data: bytes | memoryview | np.ndarray[Any, Any]) -> memoryview:
    """Return the little-endian bytes of `data` in row-major order, copied only when needed."""
    if isinstance(data, bytes):
        return memoryview(data)
    import numpy as np  # noqa: PLC0415 -- bytes, which is what an extraction writes, need no NumPy

    array = data if isinstance(data, np.ndarray) else np.asarray(memoryview(data))
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _merged(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged
