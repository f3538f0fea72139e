"""What every method of transfer has to say about a pair of modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from loragraft.architecture import LinearModule
    from loragraft.subspaces.subspace import Subspace
    from loragraft.transferring.maps import Term
    from loragraft.transferring.options import TransferOptions
    from loragraft.transferring.pairing import Pair
    from loragraft.transferring.source_adapter import SourceAdapter
    from loragraft.transferring.stream.side import Side

    #: (out, in) of a weight.
    Shape = tuple[int, int]


class Bases(NamedTuple):
    """The singular subspaces of a source weight and of a target weight, of one dimension r.

    Attributes:
        source: Of the source: U (m_s, r), V (n_s, r).
        target: Of the target: U (m_t, r), V (n_t, r).
    """

    source: Subspace
    target: Subspace

    @property
    def rank(self) -> int:
        """Their dimension r."""
        return self.source.rank

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """(m_s, n_s) and (m_t, n_t)."""
        (m_s, _), (n_s, _) = self.source.U.shape, self.source.V.shape
        (m_t, _), (n_t, _) = self.target.U.shape, self.target.V.shape
        return (m_s, n_s), (m_t, n_t)

    @property
    def same_shape(self) -> bool:
        """Whether both weights have one shape."""
        source, target = self.shapes
        return source == target


class Method(Protocol):
    """An alignment: how the spaces of a source module map to those of a target module.

    Attributes:
        name: As ``--method`` takes it.
        exact: The factors are taken over as they are, bit for bit.
    """

    name: str
    exact: bool

    def refusal(self, source: Shape, target: Shape) -> str:
        """Return why the method cannot map between weights of these shapes; empty if it can."""

    def terms(self, bases: Bases) -> tuple[Term, ...]:
        """Return the summands P ΔW_s Qᵀ of the transferred update."""

    def chance(self, bases: Bases) -> float:
        """Return ‖ΔW_t‖ / ‖ΔW_s‖ as expected where nothing is shared: for random subspaces."""

    def remark(self, source: Shape, target: Shape) -> str:
        """Return what a reader must know of this map; empty where there is nothing."""


class Models(NamedTuple):
    """What a method that looks at whole models has to look at.

    Attributes:
        source: The source.
        target: The target.
        adapter: The source's adapter.
        pairs: What is to be transferred, in the order of the target.
        options: What was asked for.
    """

    source: Side
    target: Side
    adapter: SourceAdapter
    pairs: tuple[Pair, ...]
    options: TransferOptions


class Alignment(Protocol):
    """What a method has found out about two whole models: it gives the maps of every pair."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of it, a sentence each."""

    def method(self, source: LinearModule, target: LinearModule) -> Method:
        """Return the method of one pair; it makes no use of singular subspaces."""


class WholeMethod(Protocol):
    """A method that looks at both models once, not at each pair of weights for itself.

    Attributes:
        name: As ``--method`` takes it.
        calibrated: It runs both models on calibration texts.
    """

    name: str
    calibrated: bool

    def prepare(self, models: Models) -> Alignment:
        """Look at both models.

        Raises:
            MismatchError: The method cannot map between them.
            FormatError: A file cannot be read.
            MissingDependencyError: A package is missing that it needs.
        """
