"""Which layer of the source each layer of the target takes its update from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loragraft.comparison.layers import identity, proportional
from loragraft.errors import FormatError, UsageError
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    #: Layer of the target -> layer of the source.
    LayerMap = Mapping[int, int]

__all__ = ["identity", "order_preserving", "proportional", "read_layer_map"]

IDENTITY: Final = "identity"
PROPORTIONAL: Final = "proportional"
SIMILARITY: Final = "similarity"
RULES: Final = ("auto", IDENTITY, PROPORTIONAL, SIMILARITY)
_MOST_BYTES: Final = 1 << 20
#: Decides between assignments of equal similarity, for the proportional one.
_TIE: Final = 1e-9


def order_preserving(excess: NDArray[np.float64]) -> dict[int, int]:
    """Pair layers by similarity so that their order is kept, by dynamic programming.

    Of all order-preserving assignments the one of the largest summed similarity: no source layer
    twice where there are enough of them, else every source layer at least once.

    Args:
        excess: (L_s, L_t), mean excess similarity of every source layer with every target layer.
    """
    sources, targets = excess.shape
    wanted = proportional(sources, targets)
    near = np.array([[abs(s - wanted[t]) for t in range(targets)] for s in range(sources)])
    gain = excess - _TIE * near
    most_step = sources if targets <= sources else 1
    least_step = 1 if targets <= sources else 0
    best = np.full((targets, sources), -np.inf)
    origin = np.zeros((targets, sources), np.intp)
    best[0] = gain[:, 0]
    if targets > sources:
        best[0, 1:] = -np.inf
    for t in range(1, targets):
        for s in range(sources):
            low, high = max(0, s - most_step), s - least_step + 1
            if low < high:
                before = best[t - 1, low:high]
                origin[t, s] = low + int(np.argmax(before))
                best[t, s] = before.max() + gain[s, t]
    layer = sources - 1 if targets > sources else int(np.argmax(best[-1]))
    found = {}
    for t in range(targets - 1, -1, -1):
        found[t] = layer
        layer = int(origin[t, layer])
    return dict(sorted(found.items()))


def read_layer_map(path: str, source: int, target: int) -> dict[int, int]:
    """Read a layer map: a JSON object {"target layer": source layer}.

    Args:
        path: The file.
        source: Number of layers of the source.
        target: Of the target.

    Raises:
        UsageError: There is no such rule, and no such file either; or a layer does not exist.
        FormatError: The file cannot be read, or is no such object.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(
            f"--layer-map {quoted(path)}: expected one of {', '.join(RULES)}, or a JSON file"
        )
    table = parse_object(read_bytes(file, _MOST_BYTES), shown(file))
    if not table:
        raise FormatError(f"{shown(file)}: names no layer; expected target and source layers")
    found = {_layer(key, target, "target", file): table[key] for key in table}
    return {own: _layer(other, source, "source", file) for own, other in sorted(found.items())}


def _layer(value: Any, count: int, side: str, file: Path) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or len(text) > 6:
        raise FormatError(
            f"{shown(file)}: {quoted(value)} is no layer; expected"
            ' {"target layer": source layer} with whole numbers'
        )
    if int(text) >= count:
        raise UsageError(
            f"{shown(file)}: there is no {side} layer {text}; the {side}'s are 0 to {count - 1}"
        )
    return int(text)
