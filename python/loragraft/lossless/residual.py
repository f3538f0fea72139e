"""Reads a residual, and trusts nothing in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np

from loragraft.adapter.peft_config import RESIDUAL_FILE
from loragraft.errors import FormatError, MismatchError
from loragraft.lossless.gaps import ESCAPE, START, decode
from loragraft.lossless.manifest import (
    GAPS_DTYPE,
    HOW_TO_MAKE,
    MANIFEST_KEY,
    Stored,
    parse_manifest,
    unit_of,
    values_dtype,
)
from loragraft.safetensors_header import read_identified_header
from loragraft.tensor_entry import TensorEntry
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from loragraft.checkpoint import Checkpoint
    from loragraft.lossless.manifest import Record
    from loragraft.tensor_bytes import TensorBytes

#: Gap codes read at once.
_CODES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Residual:
    """A residual whose header and manifest are valid.

    Attributes:
        path: The file.
        records: The tensors of the tuned checkpoint by name, in its order.
        entries: The tensors of the file by name.
    """

    path: Path
    records: Mapping[str, Record]
    entries: Mapping[str, TensorEntry]

    def check_base(self, base: Checkpoint) -> None:
        """Refuse a base that lacks what is to be merged, or has it in another form.

        Raises:
            MismatchError: It is not the one that the residual was made for.
        """
        for record in self.records.values():
            before = base.tensors.get(record.name)
            if record.stored is Stored.WHOLE or record.comes_from(before):
                continue
            got = f"{before.dtype} of shape {list(before.shape)}" if before else "no such tensor"
            raise MismatchError(
                f"{shown(base.reference)}: tensor {record.name}: got {got}, expected one that can"
                f" become {record.dtype} of shape {list(record.shape)}: the base is not the one"
                f" that {shown(self.path)} was made for; give that one"
            )

    def check_gaps(self, reader: TensorBytes) -> None:
        """Read all gaps and refuse any that lead out of their tensor or fit no value.

        Raises:
            FormatError: The file is malformed or cannot be read.
        """
        for record in self.records.values():
            if record.stored is Stored.SPARSE:
                self._check_gaps(record, reader)

    def _check_gaps(self, record: Record, reader: TensorBytes) -> None:
        gaps, values = (self.entries[key] for key in record.keys)
        units = record.nbytes // unit_of(record.dtype)
        last, count = START, 0
        for codes in gap_codes(reader, gaps):
            positions, last = decode(codes, last)
            count += positions.size
            if last >= units:
                _fail(self.path, f"{gaps.name} leads to unit {last}, expected less than {units}")
            # Checked for every piece, for only the last one must not end so.
            ends_escaped = bool(codes[-1] == ESCAPE)
        if gaps.parameters and ends_escaped:
            _fail(self.path, f"{gaps.name} ends with a code that records nothing")
        if count != values.parameters:
            _fail(
                self.path,
                f"{gaps.name} records {count} positions, but {values.name} has"
                f" {values.parameters} values",
            )


def read_residual(directory: Path) -> Residual:
    """Read the header and the manifest of an adapter's residual.

    Raises:
        FormatError: There is none, or it is malformed.
    """
    path = directory / RESIDUAL_FILE
    if not path.exists():
        raise FormatError(
            f"{shown(directory)}: no {RESIDUAL_FILE}; an adapter gets one by {HOW_TO_MAKE}"
        )
    header, identity = read_identified_header(path)
    entries = {
        t.name: TensorEntry(t.name, t.dtype, t.shape, path, t.begin, t.end - t.begin, identity)
        for t in header.tensors.values()
    }
    if MANIFEST_KEY not in header.metadata:
        _fail(path, f"the metadata have no {MANIFEST_KEY}, expected the list of tensors there")
    records = parse_manifest(header.metadata[MANIFEST_KEY], f"{shown(path)}: {MANIFEST_KEY}")
    known = {key for record in records.values() for key in record.keys}
    stray = next((name for name in entries if name not in known), None)
    if stray is not None:
        _fail(path, f"tensor {quoted(stray)} belongs to no entry of {MANIFEST_KEY}")
    for record in records.values():
        _check_entries(path, record, entries)
    return Residual(path, records, entries)


def gap_codes(reader: TensorBytes, gaps: TensorEntry) -> Iterator[NDArray[np.uint16]]:
    """Yield the gap codes of a tensor, a million at a time.

    Raises:
        FormatError: The file cannot be read.
    """
    for start in range(0, gaps.parameters, _CODES):
        stop = min(start + _CODES, gaps.parameters)
        yield np.frombuffer(reader.raw_part(gaps, 2 * start, 2 * stop), "<u2")


def _check_entries(path: Path, record: Record, entries: Mapping[str, TensorEntry]) -> None:
    dtypes: tuple[str, ...]
    if record.stored is Stored.SPARSE:
        dtypes = (GAPS_DTYPE, values_dtype(record.dtype))
    else:
        dtypes = (record.dtype,)
    for key, dtype in zip(record.keys, dtypes, strict=False):
        if key not in entries:
            _fail(path, f"there is no tensor {quoted(key)}, expected it by {MANIFEST_KEY}")
        entry = entries[key]
        shape = record.shape if record.stored is Stored.WHOLE else (entry.parameters,)
        if (entry.dtype, entry.shape) != (dtype, shape):
            _fail(
                path,
                f"tensor {quoted(key)} is {entry.dtype} of shape {list(entry.shape)}, expected"
                f" {dtype} of shape {list(shape)}",
            )


def _fail(path: Path, what: str) -> NoReturn:
    raise FormatError(f"{shown(path)}: not a valid residual: {what}; make it again: {HOW_TO_MAKE}")
