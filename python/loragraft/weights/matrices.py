"""Sources as matrices that the kernels read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from loragraft import native
from loragraft.input_file import InputFile, changed
from loragraft.weights.source import Interleaved, Microscaled, Plain, Q8Blocks, Scaled, Stacked

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.tensor_entry import TensorEntry
    from loragraft.weights.source import Source


class MatrixFactory:
    """Opens every file once and makes native matrices of sources."""

    def __init__(self, io: str) -> None:
        self._io = io
        self._files: dict[Path, native.MappedFile] = {}

    def make(self, source: Source) -> native.StoredMatrix:
        """Return the native matrix of a source.

        Raises:
            FormatError: A file cannot be opened, or is no longer the one whose header was read.
        """
        match source:
            case Plain():
                return self._plain(source)
            case Stacked(parts):
                return native.StoredMatrix.stacked([self.make(part) for part in parts])
            case Interleaved(parts):
                return native.StoredMatrix.interleaved([self.make(part) for part in parts])
            case Scaled(codes, scales, block, factor):
                return native.StoredMatrix.scaled(
                    self._plain(codes), self._plain(scales), *block, factor
                )
            case Microscaled(blocks, scales, rows, columns, first_row, step):
                return native.StoredMatrix.microscaled(
                    self._file(blocks),
                    blocks.offset,
                    self._file(scales),
                    scales.offset,
                    rows,
                    columns,
                    first_row,
                    step,
                )
            case Q8Blocks(entry, rows, columns, first_row, step):
                return native.StoredMatrix.q8(
                    self._file(entry), entry.offset, rows, columns, first_row, step
                )

    def _plain(self, source: Plain) -> native.StoredMatrix:
        entry, rows, columns, first, down, across = source
        file = self._file(entry)
        offset = entry.offset + first * (entry.nbytes // max(1, entry.parameters))
        if across == 1 and down == columns:
            return native.StoredMatrix(file, offset, entry.dtype, rows, columns)
        return native.StoredMatrix(file, offset, entry.dtype, rows, columns, down, across)

    def _file(self, entry: TensorEntry) -> native.MappedFile:
        file = self._files.get(entry.path)
        if file is None:
            file = native.MappedFile(os.fsencode(entry.path), self._io)
            _check_identity(entry)
            self._files[entry.path] = file
        return file


def _check_identity(entry: TensorEntry) -> None:
    """Refuse a file that is no longer the one whose header was read: its offsets may be others."""
    with InputFile(entry.path) as file:
        if entry.identity is not None and entry.identity != file.identity:
            raise changed(entry.path)
