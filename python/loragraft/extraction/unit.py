"""One weight on both sides: the matrices that are compared and factored together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.architecture.source_parts import turned
from loragraft.weights.source import matrix_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.alignment import ModulePair, TensorPair
    from loragraft.architecture.linear_module import LinearModule
    from loragraft.tensor_entry import TensorEntry
    from loragraft.weights.source import Source


class Unit(NamedTuple):
    """The matrices of one weight on both sides: one, or one per expert.

    Attributes:
        name: For messages and sketches: of the tensor, or of the module where it has several.
        base: The matrices of BASE.
        tuned: Those of TUNED, of the same shapes and the same way round.
    """

    name: str
    base: tuple[Source, ...]
    tuned: tuple[Source, ...]

    @classmethod
    def of_tensors(cls, pair: TensorPair) -> Unit:
        """Return a pair of plain tensors, of whatever dimensions."""
        assert pair.base is not None
        assert pair.tuned is not None
        return cls(pair.name, (matrix_of(pair.base),), (matrix_of(pair.tuned),))

    @classmethod
    def of_modules(cls, pair: ModulePair) -> tuple[Unit, bool]:
        """Return a pair of modules, and whether its matrices are ``[in, out]``.

        They are where both sides lie so in the files: nothing need be turned then.
        """
        ours, _ = pair
        sides = [_as_out_in(side) for side in pair]
        by_columns = all(source.by_columns for side in sides for source in side)
        base, tuned = map(_turned, sides) if by_columns else sides
        name = ours.tensor if len(base) == 1 else ours.name
        return cls(name, base, tuned), by_columns

    def label(self, number: int) -> str:
        """Return the name of one matrix."""
        return self.name if len(self.base) == 1 else f"{self.name}[{number}]"

    @property
    def entries(self) -> tuple[TensorEntry, ...]:
        """Every tensor of either side that is read, once."""
        found = {(entry.path, entry.name): entry for entry in self._each_entry()}
        return tuple(found.values())

    def _each_entry(self) -> Iterator[TensorEntry]:
        for source in (*self.base, *self.tuned):
            yield from source.entries

    @property
    def nbytes(self) -> int:
        """Bytes stored on both sides together."""
        return sum(entry.nbytes for entry in self.entries)

    @property
    def parameters(self) -> int:
        """Entries of the matrices of one side."""
        return sum(source.rows * source.columns for source in self.base)


def _as_out_in(module: LinearModule) -> tuple[Source, ...]:
    return _turned(module.matrices) if module.transposed else module.matrices


def _turned(matrices: tuple[Source, ...]) -> tuple[Source, ...]:
    return tuple(turned(source) for source in matrices)
