"""The figures of a comparison that are drawn as maps, and how large counts as large."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from loragraft.comparison.report import ComparedModule
    from loragraft.subspaces.chance import Overlap

_NO_CHANGE: Final = "the shapes differ"
#: log₁₀ of the least and of the largest change that are told apart.
_DECADES: Final = (-5.0, 0.0)


class Measure(NamedTuple):
    """One figure of a module.

    Attributes:
        title: What it is.
        value: The figure; None where it is not defined.
        words: All that is known of it, in words; why, where it is not defined.
        position: A value on a scale from 0 to 1.
        bounds: Values that separate five shades.
        shades: What these stand for.
        ticks: Marks of the scale: position and label.
    """

    title: str
    value: Callable[[ComparedModule], float | None]
    words: Callable[[ComparedModule], str]
    position: Callable[[float], float]
    bounds: tuple[float, ...]
    shades: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]

    def shade(self, value: float) -> int:
        """Return the number of the shade of a value, 0 to 4."""
        return sum(value >= bound for bound in self.bounds)


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value))


def _decades(value: float) -> float:
    low, high = _DECADES
    return _clipped((math.log10(value) - low) / (high - low)) if value > 0.0 else 0.0


def _overlap(side: Overlap) -> str:
    if side.excess is None:
        return f"undefined: {side.why}" if side.why else "undefined"
    return (
        f"excess {side.excess:.3f}, similarity {side.similarity:.3f}, chance {side.chance:.3f},"
        f" z {side.z:.1f}"
    )


def _both(module: ComparedModule) -> str:
    if module.excess is None:
        return _overlap(module.left)
    return f"mean excess {module.excess:.3f}"


def _change(module: ComparedModule) -> str:
    if module.weight_change is None:
        why = _NO_CHANGE if module.shape != module.other_shape else "the weight of A is zero"
        return f"undefined: {why}"
    cosine = "" if module.weight_cosine is None else f", cosine {module.weight_cosine:.3f}"
    return f"change {module.weight_change:.4%}{cosine}"


_EXCESS: Final = (
    _clipped,
    (0.1, 0.4, 0.7, 0.9),
    ("below 0.1", "0.1–0.4", "0.4–0.7", "0.7–0.9", "from 0.9"),
    ((0.0, "0, chance"), (0.5, "0.5"), (1.0, "1, the same")),
)
OUTPUT: Final = Measure(
    "Output side: similarity of subspaces, excess over chance",
    lambda module: module.left.excess,
    lambda module: _overlap(module.left),
    *_EXCESS,
)
INPUT: Final = Measure(
    "Input side: similarity of subspaces, excess over chance",
    lambda module: module.right.excess,
    lambda module: _overlap(module.right),
    *_EXCESS,
)
BOTH: Final = Measure(
    "Similarity of subspaces, mean excess over chance",
    lambda module: module.excess,
    _both,
    *_EXCESS,
)
CHANGE: Final = Measure(
    "Weight change, ‖W_B − W_A‖ / ‖W_A‖",
    lambda module: module.weight_change,
    _change,
    _decades,
    (1e-4, 1e-3, 1e-2, 1e-1),
    ("below 0.01%", "0.01–0.1%", "0.1–1%", "1–10%", "from 10%"),
    tuple((step / 5.0, label) for step, label in enumerate(
        ("0.001%", "0.01%", "0.1%", "1%", "10%", "100%")
    )),
)  # fmt: skip
