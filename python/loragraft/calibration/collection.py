"""What the modules of a model read and write at some places, as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loragraft.errors import MismatchError, NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from loragraft.calibration.language_model import LanguageModel, Place, Tokens
    from loragraft.calibration.watching import Watcher

    Array = NDArray[np.float32]


class ModuleRows(NamedTuple):
    """What a module reads and writes.

    Attributes:
        inputs: (places, in).
        outputs: (places, out).
    """

    inputs: Array
    outputs: Array


def collect(
    model: LanguageModel,
    texts: Sequence[Tokens],
    places: Sequence[Place],
    shapes: Mapping[str, tuple[int, int]],
) -> dict[str, ModuleRows | str]:
    """Run a model once and keep the rows of some modules.

    Args:
        model: The model.
        texts: The texts.
        places: Where to look.
        shapes: (out, in) of the modules, by name.

    Returns:
        By name the rows, or in words why there are none.

    Raises:
        NonFiniteError: NaN or Inf among them.
    """
    found: dict[str, ModuleRows | str] = {}
    kept: dict[str, ModuleRows] = {}
    for name, (out, into) in shapes.items():
        try:
            model.module(name)
        except MismatchError as error:
            found[name] = str(error)
            continue
        sizes = (len(places), into), (len(places), out)
        kept[name] = ModuleRows(*(np.full(size, np.nan, np.float32) for size in sizes))
    # What is never heard of keeps the first reason, what has other widths than its tensor gets one.
    found |= dict.fromkeys(kept, "it is not run on every token of a text")
    model.run(texts, places, {name: _keeper(name, rows, found) for name, rows in kept.items()})
    for name, rows in kept.items():
        if found[name] is rows and not all(np.isfinite(side).all() for side in rows):
            raise NonFiniteError(f"{name}: NaN or Inf in what the model computes there")
    return found


def _keeper(name: str, rows: ModuleRows, found: dict[str, ModuleRows | str]) -> Watcher:
    def keep(numbers: NDArray[np.intp], inputs: Array, outputs: Array) -> None:
        if inputs.shape[1] == rows.inputs.shape[1] and outputs.shape[1] == rows.outputs.shape[1]:
            rows.inputs[numbers], rows.outputs[numbers] = inputs, outputs
            found[name] = rows
        else:
            found[name] = "transformers builds it with other widths than its tensor has"

    return keep
