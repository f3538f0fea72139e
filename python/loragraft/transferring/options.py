"""What a transfer is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from loragraft.architecture.selection import Selection, parse_selection
from loragraft.errors import UsageError
from loragraft.subspaces.finder import SubspaceFinder
from loragraft.subspaces.rank import SubspaceRank, parse_subspace_rank
from loragraft.transferring.methods import AUTO, DISTILL, require_method
from loragraft.wording import quoted

if TYPE_CHECKING:
    import os

    from loragraft.subspaces.cache import SubspaceCache
    from loragraft.tensor_reader import TensorReader

MATCH_NORM: Final = "match-norm"
DTYPES: Final = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
DEFAULT_RANK: Final = SubspaceRank(128)
_MOST_SEED: Final = 2**64


@dataclass(frozen=True, slots=True)
class MinSimilarity:
    """The filter on similarity, which looks at the excess over chance alone.

    Attributes:
        excess: Least excess κ of a module that is kept; None for what is clearly above chance.
    """

    excess: float | None = None

    def __str__(self) -> str:
        return AUTO if self.excess is None else f"{self.excess:g}"


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Options of a transfer, checked.

    Attributes:
        method: One of `methods.CHOICES`.
        subspace_rank: Dimension of the singular subspaces.
        layer_map: ``auto``, ``identity``, ``proportional``, ``similarity``, or a file.
        min_similarity: The filter, None for none.
        scale: Factor of every update; None gives each the norm of its source.
        selection: Which modules of the target may be adapted.
        dtype: Of the factors: ``auto`` (as the source's), ``bf16``, ``fp16`` or ``fp32``.
        power_iterations: Passes that sharpen the subspaces; None until their energy settles.
        seed: Of the sketches and the controls.
        threads: None for one per core.
        cache: Keep subspaces for the next run.
        controls: Write the controls too.
        calibration: File of the texts that both models are run on; None for a method that needs
            none.
    """

    method: str = AUTO
    subspace_rank: SubspaceRank = DEFAULT_RANK
    layer_map: str = AUTO
    min_similarity: MinSimilarity | None = None
    scale: float | None = 1.0
    selection: Selection = field(default_factory=Selection)
    dtype: str = AUTO
    power_iterations: int | None = None
    seed: int = 0
    threads: int | None = None
    cache: bool = True
    controls: bool = False
    calibration: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            UsageError: One of them does.
        """
        require_method(self.method, calibrated=self.calibration is not None)
        if self.method == DISTILL and self.min_similarity is not None:
            raise UsageError(
                f"--min-similarity: --method {DISTILL} pairs no modules, so there is nothing to"
                " compare: leave it out"
            )
        if self.method == AUTO and self.calibration is not None and self.controls:
            raise UsageError(
                f"--controls: --method {AUTO} with --calibration may pair modules or not, and each"
                " has other controls: name the method"
            )
        if self.method == DISTILL and self.scale is None:
            raise UsageError(
                f"--scale {MATCH_NORM}: --method {DISTILL} has no source module whose norm to"
                " match: give a factor"
            )
        if self.dtype != AUTO and self.dtype not in DTYPES:
            known = ", ".join((AUTO, *DTYPES))
            raise UsageError(f"--dtype {quoted(self.dtype)}: expected one of {known}")
        if not 0 <= self.seed < _MOST_SEED:
            raise UsageError(f"--seed {self.seed}: expected 0 to 2**64 - 1")

    @classmethod
    def read(
        cls,
        *,
        subspace_rank: int | str,
        min_similarity: float | str | None,
        scale: float | str,
        target_modules: str,
        exclude: str | None,
        layers: str | None,
        calibration: str | os.PathLike[str] | None,
        **plain: Any,
    ) -> Self:
        """Return options of what a user writes; those not named here are taken as they are.

        Raises:
            UsageError: One of them cannot be read.
        """
        return cls(
            subspace_rank=parse_subspace_rank(subspace_rank),
            min_similarity=parse_min_similarity(min_similarity),
            scale=parse_scale(scale),
            selection=parse_selection(target_modules, exclude, layers),
            calibration=None if calibration is None else Path(calibration),
            **plain,
        )

    def finder(self, reader: TensorReader, cache: SubspaceCache) -> SubspaceFinder:
        """Return what finds subspaces as these options ask."""
        return SubspaceFinder(
            reader,
            cache,
            self.subspace_rank,
            power_iterations=self.power_iterations,
            seed=self.seed,
            threads=self.threads,
        )


def parse_scale(text: str | float) -> float | None:
    """Read ``--scale``: a factor, or ``match-norm``, for which None stands.

    Raises:
        UsageError: It is neither.
    """
    if text == MATCH_NORM:
        return None
    value = _number(text)
    if value is None or value == 0.0:
        raise UsageError(
            f"--scale {quoted(text)}: expected a finite number other than 0, or {MATCH_NORM}"
        )
    return value


def parse_min_similarity(text: str | float | None) -> MinSimilarity | None:
    """Read ``--min-similarity``: an excess over chance, or ``auto``.

    Raises:
        UsageError: It is neither.
    """
    if text is None:
        return None
    if text == AUTO:
        return MinSimilarity()
    value = _number(text)
    if value is None or not -1.0 <= value <= 1.0:
        raise UsageError(
            f"--min-similarity {quoted(text)}: expected {AUTO}, or the least excess over chance, a"
            " number up to 1, which is that of equal subspaces"
        )
    return MinSimilarity(value)


def _number(text: str | float) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
