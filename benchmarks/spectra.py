"""Changes with prescribed singular values, as checkpoints to extract from."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.dtypes import bf16_from_float32, float32_from_bf16
from loragraft.safetensors_writer import SafetensorsWriter
from pairs import CHANGE_RMS, WEIGHT_RMS, Pair

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE: Final = (1024, 768)
DTYPES: Final = ("F32", "BF16")

_Values = "NDArray[np.float64]"
#: Name -> singular values, given 1, 2, 3, …; None for a matrix of independent Gaussian numbers.
SPECTRA: Final[Mapping[str, Callable[[_Values], _Values] | None]] = {
    "flat": np.ones_like,
    "k^-1/2": lambda k: k**-0.5,
    "k^-1": lambda k: 1.0 / k,
    "geometric 0.9": lambda k: 0.9**k,
    "step 20": lambda k: np.where(k <= 20, 1.0, 0.1),
    "exact rank 16": lambda k: (k <= 16) / k**0.5,
    "rank 8": lambda k: (k <= 8) / k,
    "Gaussian noise": None,
}


def tensor_name(spectrum: str) -> str:
    """Return the name of the tensor whose change has this spectrum."""
    return f"layers.{list(SPECTRA).index(spectrum)}.proj.weight"


def spectra_pair(root: Path, dtype: str) -> Pair:
    """Make a pair with one tensor for each spectrum, unless it is there already.

    The weights are Gaussian; the change, a twentieth of them, is added in float64 and rounded
    with them to the dtype, so what is extracted has the prescribed spectrum plus that rounding.

    Args:
        root: Where pairs are kept.
        dtype: Safetensors code of both sides, one of `DTYPES`.
    """
    name = f"spectra-{dtype.lower()}"
    directory, work = root / name, root / f"{name}.unfinished"
    if not directory.exists():
        shutil.rmtree(work, ignore_errors=True)
        for side in ("base", "tuned"):
            (work / side).mkdir(parents=True)
        _write(work, dtype)
        work.rename(directory)
    parameters = len(SPECTRA) * SHAPE[0] * SHAPE[1]
    return Pair(name, directory / "base", directory / "tuned", len(SPECTRA), parameters)


def _write(directory: Path, dtype: str) -> None:
    layout = [(tensor_name(spectrum), dtype, SHAPE) for spectrum in SPECTRA]
    rng = np.random.default_rng(2)
    with (
        SafetensorsWriter(directory / "base" / "model.safetensors", layout) as base,
        SafetensorsWriter(directory / "tuned" / "model.safetensors", layout) as tuned,
    ):
        for spectrum, values in SPECTRA.items():
            stored = _store(rng.standard_normal(SHAPE) * WEIGHT_RMS, dtype)
            base.write(tensor_name(spectrum), stored)
            changed = _load(stored) + _change(rng, values)
            tuned.write(tensor_name(spectrum), _store(changed, dtype))


def _change(
    rng: np.random.Generator, values: Callable[[_Values], _Values] | None
) -> NDArray[np.float64]:
    if values is None:
        return rng.standard_normal(SHAPE) * CHANGE_RMS
    size = min(SHAPE)
    left = np.linalg.qr(rng.standard_normal((SHAPE[0], size)))[0]
    right = np.linalg.qr(rng.standard_normal((SHAPE[1], size)))[0]
    change = (left * values(np.arange(1.0, size + 1.0))) @ right.T
    return change * (CHANGE_RMS / np.sqrt(np.mean(change**2)))


def _store(values: NDArray[np.float64], dtype: str) -> NDArray[np.generic]:
    single = values.astype(np.float32)
    return bf16_from_float32(single) if dtype == "BF16" else single


def _load(stored: NDArray[np.generic]) -> NDArray[np.float64]:
    widened = float32_from_bf16(stored) if stored.dtype == np.uint16 else stored
    return widened.astype(np.float64)
