"""Spectra of made fine-tunes: LoRAs merged into stored weights, and changes of full rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from loragraft import linalg
from loragraft.extraction.ranks.spectrum import Spectrum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FORMATS: dict[str, tuple[Any, int]] = {
    "BF16": (ml_dtypes.bfloat16, 7),
    "F16": (np.float16, 10),
    "F32": (np.float32, 23),
}
"""NumPy type and stored bits of the mantissa."""


def spectrum_of(
    values: Sequence[float],
    *,
    rest: float = 0.0,
    rounding: float = 0.0,
    shape: tuple[int, int] = (1000, 1000),
    **more: str,
) -> Spectrum:
    """A spectrum of prescribed singular values, and `rest` of squared norm behind them."""
    left_out = [rest + sum(v * v for v in values[k + 1 :]) for k in range(len(values))]
    total = rest + sum(v * v for v in values)
    return Spectrum(
        (tuple(values),), (total,), (rounding,), (left_out,), (left_out,), shape, **more
    )


def together(spectra: Sequence[Spectrum]) -> Spectrum:
    """One parameter of several experts."""
    first = spectra[0]
    return Spectrum(
        *(tuple(part for s in spectra for part in s[field]) for field in range(5)),
        first.shape,
        first.name,
        first.group,
    )


def weights(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Rows and columns differ in size, as those of trained layers do."""
    rows = np.exp(0.2 * rng.standard_normal((shape[0], 1)))
    columns = np.exp(0.3 * rng.standard_normal((1, shape[1])))
    return np.asarray(0.04 * rng.standard_normal(shape) * rows * columns)


def low_rank(
    rng: np.random.Generator, shape: tuple[int, int], rank: int, decay: float = 1.0
) -> NDArray[np.float64]:
    """A product of that rank with root mean square 1 and singular values k^-decay."""
    left = np.linalg.qr(rng.standard_normal((shape[0], rank)))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], rank)))[0]
    product = (left * np.arange(1.0, rank + 1) ** -decay) @ right.T
    return np.asarray(product * np.sqrt(product.size) / np.linalg.norm(product))


def power_law(
    rng: np.random.Generator, shape: tuple[int, int], exponent: float
) -> NDArray[np.float64]:
    """A change of full rank with root mean square 1, as full fine-tunes make."""
    return low_rank(rng, shape, min(shape), exponent)


def stored(
    base: NDArray[np.float64],
    change: NDArray[np.float64],
    *,
    code: str = "BF16",
    most: int = 64,
    kernels: bool = False,
    **more: str,
) -> Spectrum:
    """The spectrum of ΔW after both sides have been rounded to a format.

    Args:
        base: Weights; rounded first, as a base is what it is as it is stored.
        change: Added in double precision.
        code: Of the format.
        most: How many singular values are computed.
        kernels: Compute them in single precision, as an extraction does.
        more: Fields of the spectrum.
    """
    dtype, bits = FORMATS[code]
    before = base.astype(dtype).astype(np.float64)
    after = (before + change).astype(dtype).astype(np.float64)
    delta = after - before
    ulp = np.exp2(np.floor(np.log2(np.abs(after), where=after != 0, out=np.zeros_like(after))))
    ulp *= 2.0**-bits * (after != 0)
    exact = np.linalg.svd(delta, compute_uv=False)
    most = min(most, *delta.shape)
    values = exact[:most]
    if kernels:
        values = np.asarray(linalg.truncated_svd(delta.astype(np.float32), most, threads=1).s)
    left_out = [float(np.sum(exact[k + 1 :] ** 2)) for k in range(most)]
    return Spectrum(
        (tuple(map(float, values)),),
        (float(np.sum(delta**2)),),
        (float(np.sum(ulp**2)) / 12,),
        (left_out,),
        (left_out,),
        delta.shape,
        **more,
    )


def unit_in_last_place(base: NDArray[np.float64]) -> float:
    """Root mean square of the bf16 ulp of some weights: changes are measured by it."""
    _, exponent = np.frexp(base)
    return float(np.sqrt(np.mean(np.exp2(exponent - 8.0) ** 2)))


SHAPES = ((192, 192), (64, 192), (256, 192), (192, 256))


def merged_model(
    rank: int,
    *,
    size: float = 2.0,
    code: str = "BF16",
    layers: int = 3,
    decay: float = 1.0,
    kernels: bool = False,
    seed: int = 0,
) -> list[Spectrum]:
    """Spectra of a model into which a LoRA was merged.

    Args:
        rank: Of the LoRA.
        size: Root mean square of its change, in units of the bf16 ulp of the weights.
        code: Format of both checkpoints.
        layers: Of the model; four modules each.
        decay: Singular values of the LoRA are k^-decay.
        kernels: Compute singular values in single precision.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    spectra = []
    for layer in range(layers):
        for number, shape in enumerate(SHAPES):
            base = weights(rng, shape)
            change = size * unit_in_last_place(base) * low_rank(rng, shape, rank, decay)
            spectra.append(
                stored(
                    base,
                    change,
                    code=code,
                    kernels=kernels,
                    name=f"model.layers.{layer}.proj{number}",
                    group=f"proj{number}",
                )
            )
    return spectra
