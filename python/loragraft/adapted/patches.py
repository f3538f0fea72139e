"""What an adapter changes of each tensor of the base."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.adapter.orientation import as_stored
from loragraft.errors import MismatchError
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.weights.pieces import Piece, pieces
from loragraft.weights.source import Plain
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loragraft.adapter.placement import Placement
    from loragraft.tensor_entry import TensorEntry


class Patch(NamedTuple):
    """Rows of one weight that a tensor holds.

    Attributes:
        placement: The module that changes them.
        expert: Which of its experts.
        transposed: The weight is taken as ``[in, out]``, which is how it is stored.
        matrix: Rows and columns of the whole weight, that way round.
        source: Where in the tensor they are.
        piece: Which rows they are.
    """

    placement: Placement
    expert: int
    transposed: bool
    matrix: tuple[int, int]
    source: Plain
    piece: Piece

    @property
    def first(self) -> int:
        """The first number of the tensor that is changed."""
        return self.source.first

    @property
    def stop(self) -> int:
        """The number after the last that is changed."""
        _, rows, columns, first, down, across = self.source
        return first + (rows - 1) * down + (columns - 1) * across + 1

    @property
    def is_whole(self) -> bool:
        """Whether every number from the first to the last is changed, row by row."""
        return self.source.column_stride == 1 and self.source.row_stride == self.source.columns


def patches_of(placements: Iterable[Placement], *, lenient: bool = False) -> dict[str, list[Patch]]:
    """Return what changes of every tensor that changes, in the order of the numbers in it.

    Args:
        placements: The adapter's modules.
        lenient: Leave a weight that is stored as codes as it is, instead of refusing.

    Raises:
        MismatchError: A weight to change is stored as codes, which cannot take it up.
    """
    found: dict[str, list[Patch]] = {}
    for placement in placements:
        transposed, (matrices,) = as_stored(placement.linear)
        for expert, matrix in enumerate(matrices):
            shape = (matrix.rows, matrix.columns)
            for piece in pieces(matrix):
                source, entry = piece.source, piece.source.entries[0]
                if isinstance(source, Plain) and entry.dtype in WEIGHT_DTYPES:
                    patch = Patch(placement, expert, transposed, shape, source, piece)
                    found.setdefault(entry.name, []).append(patch)
                elif not lenient:
                    raise _of_codes(placement, entry)
    for patches in found.values():
        patches.sort(key=lambda patch: patch.first)
    return found


def _of_codes(placement: Placement, entry: TensorEntry) -> MismatchError:
    return MismatchError(
        f"{shown(entry.path)}: tensor {entry.name} is stored as {entry.dtype} codes, which cannot"
        f" take up the change of module {placement.module.name}: expected one of"
        f" {', '.join(WEIGHT_DTYPES)}; dequantise the base first, or merge into the checkpoint"
        " that it was quantised from"
    )


def groups(patches: Iterable[Patch]) -> Iterator[list[Patch]]:
    """Yield patches in runs whose numbers lie between each other's, most often one at a time."""
    group: list[Patch] = []
    stop = 0
    for patch in patches:
        if group and patch.first >= stop:
            yield group
            group = []
        group.append(patch)
        stop = max(stop, patch.stop) if len(group) > 1 else patch.stop
    if group:
        yield group
