"""Changes with prescribed singular values, or of a prescribed kind, as checkpoints."""

from __future__ import annotations

import shutil
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.dtypes import bf16_from_float32, float32_from_bf16
from loragraft.safetensors_writer import SafetensorsWriter
from pairs import CHANGE_RMS, WEIGHT_RMS, Pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Shape = tuple[int, int]
    Maker = Callable[[np.random.Generator, Shape], Values]

DTYPES: Final = ("F32", "BF16")
_TALL: Final = (1024, 768)
_WIDE: Final = (768, 1024)
_LONG: Final = (4096, 256)
_FLAT: Final = (256, 4096)
_ODD: Final = (999, 333)
_OUTLYING: Final = 100.0
_HUGE: Final = 1e4
_FEW: Final = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One matrix to extract.

    Attributes:
        name: What it is.
        shape: Of the tensor.
        make: Gives ΔW up to a factor.
    """

    name: str
    shape: Shape
    make: Maker

    @property
    def title(self) -> str:
        """Name and shape."""
        return f"{self.name}, {self.shape[0]} × {self.shape[1]}"


def _spectrum(values: Callable[[Values], Values]) -> Maker:
    """Return matrices with these singular values, given 1, 2, 3, …, and random vectors."""

    def make(rng: np.random.Generator, shape: Shape) -> Values:
        size = min(shape)
        left = np.linalg.qr(rng.standard_normal((shape[0], size)))[0]
        right = np.linalg.qr(rng.standard_normal((shape[1], size)))[0]
        return np.asarray((left * values(np.arange(1.0, size + 1.0))) @ right.T)

    return make


def _noise(rng: np.random.Generator, shape: Shape) -> Values:
    return rng.standard_normal(shape)


def _outlying_rows(rng: np.random.Generator, shape: Shape) -> Values:
    made = rng.standard_normal(shape)
    made[rng.choice(shape[0], _FEW, replace=False)] *= _OUTLYING
    return made


def _outlying_columns(rng: np.random.Generator, shape: Shape) -> Values:
    return _outlying_rows(rng, shape[::-1]).T


def _huge_entry(rng: np.random.Generator, shape: Shape) -> Values:
    made = rng.standard_normal(shape)
    made[shape[0] // 3, shape[1] // 2] = _HUGE
    return made


def _changes() -> tuple[Change, ...]:
    slow, slower = _spectrum(lambda k: k**-0.5), _spectrum(lambda k: k**-0.25)
    makers: dict[str, Maker] = {
        "flat": _spectrum(np.ones_like),
        "k^-1/4": slower,
        "k^-1/2": slow,
        "k^-1": _spectrum(lambda k: 1.0 / k),
        "k^-2": _spectrum(lambda k: k**-2.0),
        "geometric 0.9": _spectrum(lambda k: 0.9**k),
        "geometric 0.99": _spectrum(lambda k: 0.99**k),
        "tenfold step after 16": _spectrum(lambda k: np.where(k <= 16, 1.0, 0.1)),
        "tenfold step after 20": _spectrum(lambda k: np.where(k <= 20, 1.0, 0.1)),
        "hundredfold step after 8": _spectrum(lambda k: np.where(k <= 8, 1.0, 0.01)),
        "exactly rank 16": _spectrum(lambda k: (k <= 16) / k**0.5),
        "exactly rank 8": _spectrum(lambda k: (k <= 8) / k),
        "Gaussian noise": _noise,
        "three rows 100 times larger": _outlying_rows,
        "three columns 100 times larger": _outlying_columns,
        "one entry 10,000 times larger": _huge_entry,
    }
    shapes: dict[Shape, dict[str, Maker]] = {_TALL: makers}
    for shape in (_WIDE, _LONG, _FLAT, _ODD):
        shapes[shape] = {"k^-1/4": slower, "k^-1/2": slow, "Gaussian noise": _noise}
    return tuple(
        Change(name, shape, make) for shape, named in shapes.items() for name, make in named.items()
    )


CHANGES: Final = _changes()


def tensor_name(change: Change) -> str:
    """Return the name of the tensor with this change."""
    return f"layers.{CHANGES.index(change)}.proj.weight"


def spectra_pair(root: Path, dtype: str) -> Pair:
    """Make a pair with one tensor for each change, unless it is there already.

    The weights are Gaussian; the change, a twentieth of them, is added in float64 and rounded
    with them to the dtype, so what is extracted is what was prescribed plus that rounding.

    Args:
        root: Where pairs are kept.
        dtype: Safetensors code of both sides, one of `DTYPES`.
    """
    # Another list of changes is another pair.
    listed = zlib.crc32("\n".join(change.title for change in CHANGES).encode())
    name = f"spectra-{dtype.lower()}-{listed:08x}"
    directory, work = root / name, root / f"{name}.unfinished"
    if not directory.exists():
        shutil.rmtree(work, ignore_errors=True)
        for side in ("base", "tuned"):
            (work / side).mkdir(parents=True)
        _write(work, dtype)
        work.rename(directory)
    parameters = sum(change.shape[0] * change.shape[1] for change in CHANGES)
    return Pair(name, directory / "base", directory / "tuned", len(CHANGES), parameters)


def _write(directory: Path, dtype: str) -> None:
    layout = [(tensor_name(change), dtype, change.shape) for change in CHANGES]
    rng = np.random.default_rng(2)
    with (
        SafetensorsWriter(directory / "base" / "model.safetensors", layout) as base,
        SafetensorsWriter(directory / "tuned" / "model.safetensors", layout) as tuned,
    ):
        for change in CHANGES:
            weight = _rounded(rng.standard_normal(change.shape) * WEIGHT_RMS, dtype)
            base.write(tensor_name(change), _stored(weight, dtype))
            made = change.make(rng, change.shape)
            made *= CHANGE_RMS / np.sqrt(np.mean(made**2))
            tuned.write(tensor_name(change), _stored(weight + made, dtype))


def _stored(values: Values, dtype: str) -> NDArray[np.uint16] | NDArray[np.float32]:
    single = values.astype(np.float32)
    return bf16_from_float32(single) if dtype == "BF16" else single


def _rounded(values: Values, dtype: str) -> Values:
    single = values.astype(np.float32)
    if dtype == "BF16":
        single = float32_from_bf16(bf16_from_float32(single))
    return single.astype(np.float64)
