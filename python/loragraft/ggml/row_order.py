"""In which order llama.cpp keeps the rows, or columns, of weights that it rearranges.

- ``rotary``: rows of a head that are rotated together lie side by side: rows i and i + d/2 of each
  head of width d become rows 2i and 2i + 1 (LlamaModel.permute of convert_hf_to_gguf.py).
- ``tiled``: value heads of linear attention, which transformers groups by the key head that they
  belong to, come round by round: the first of every group, the second of every group
  (_reorder_v_heads there).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from loragraft.errors import FormatError
from loragraft.ggml.family import text_config
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from loragraft.ggml.family import GgmlFamily

_HEADS: Final = {"rotary query": "num_attention_heads", "rotary key": "num_key_value_heads"}


class Order(NamedTuple):
    """How a weight lies in a GGUF file.

    Attributes:
        places: Row (or column) i of the file's is number ``places[i]`` of the model's.
        columns: It is the columns that are rearranged.
    """

    places: NDArray[np.int64]
    columns: bool = False

    @property
    def inverse(self) -> NDArray[np.int64]:
        """The model's row i is number ``inverse[i]`` of the file's."""
        return np.argsort(self.places)


def order_of(
    family: GgmlFamily, module: str, shape: tuple[int, int], config: Mapping[str, Any] | None
) -> Order | None:
    """Return how a module's weight is rearranged, None where it is not.

    Args:
        family: Of the model.
        module: Path of the module in memory.
        shape: ``(out, in)`` of its weight.
        config: Content of the model's config.json.

    Raises:
        FormatError: The config has no numbers of heads, or they do not divide the weight.
    """
    kind = family.order_of(module)
    if not kind:
        return None
    numbers = _Numbers(text_config(config), module)
    if kind in _HEADS:
        heads = numbers.get(_HEADS[kind], "num_attention_heads")
        return Order(_rotary(numbers, heads, shape[0]))
    keys, values = (numbers.get(f"linear_num_{side}_heads") for side in ("key", "value"))
    width = 1 if kind == "tiled heads" else numbers.get("linear_value_head_dim")
    if kind == "columns of tiled values":
        return _unless_plain(numbers.tiled(keys, values, width, shape[1]), columns=True)
    front = 0
    if kind == "tiled values behind keys":
        front = 2 * keys * numbers.get("linear_key_head_dim")
    tiled = numbers.tiled(keys, values, width, shape[0] - front)
    return _unless_plain(np.concatenate([np.arange(front), front + tiled]), columns=False)


def _unless_plain(index: NDArray[np.int64], *, columns: bool) -> Order | None:
    return None if (np.diff(index) == 1).all() else Order(index, columns)


def _rotary(numbers: _Numbers, heads: int, rows: int) -> NDArray[np.int64]:
    numbers.check_divides(2 * heads, rows)
    pairs = np.arange(rows).reshape(heads, 2, rows // heads // 2)
    return pairs.swapaxes(1, 2).reshape(-1)


class _Numbers:
    """Numbers of config.json, checked for what they are used for."""

    def __init__(self, config: Mapping[str, Any], module: str) -> None:
        self._config = config
        self._module = module

    def get(self, key: str, instead: str = "") -> int:
        value = self._config.get(key, self._config.get(instead))
        if type(value) is not int or value < 1:
            raise FormatError(
                f"config.json: {key} is {quoted(value)}, expected the number that the rows of"
                f" {self._module} are ordered by in a GGUF"
            )
        return value

    def tiled(self, keys: int, values: int, width: int, rows: int) -> NDArray[np.int64]:
        """Return the order of ``values`` heads of ``width`` that belong to ``keys`` groups."""
        if values % keys:
            self.check_divides(keys, values)
        if values * width != rows:
            self.check_divides(0, rows)
        groups = np.arange(rows).reshape(keys, values // keys, width)
        return groups.swapaxes(0, 1).reshape(-1)

    def check_divides(self, parts: int, rows: int) -> None:
        if not parts or rows % parts:
            raise FormatError(
                f"config.json: its numbers of heads do not fit the {rows} rows of {self._module};"
                " give the config.json of this model"
            )


def runs(index: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Return an order as runs (first, how many, step) of evenly spaced numbers.

    The fewest that a greedy reading finds; a run of one has step 1.
    """
    found: list[tuple[int, int, int]] = []
    steps = np.diff(index)
    breaks = np.flatnonzero(np.diff(steps)) + 1
    start = 0
    while start < len(index):
        later = breaks[np.searchsorted(breaks, start + 1) :]
        stop = int(later[0]) + 1 if len(later) else len(index)
        step = int(steps[start]) if stop - start > 1 else 1
        found.append((int(index[start]), stop - start, step))
        start = stop
    return found
