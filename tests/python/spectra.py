"""Matrices of prescribed singular values, and others for the tests of the kernels."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Spectrum = Callable[[NDArray[np.float64], int], NDArray[np.float64]]

EPS32 = 2.0**-23

#: Name -> singular values at positions 1, 2, ... for a factorisation of some rank.
SPECTRA: dict[str, Spectrum] = {
    "flat": lambda k, rank: np.ones_like(k),
    "k^-1/2": lambda k, rank: k**-0.5,
    "k^-1": lambda k, rank: 1.0 / k,
    "geometric .5": lambda k, rank: 0.5**k,
    "geometric .9": lambda k, rank: 0.9**k,
    "geometric .99": lambda k, rank: 0.99**k,
    "step before the rank": lambda k, rank: np.where(k < rank, 1.0, 1e-2),
    "step at the rank": lambda k, rank: np.where(k <= rank, 1.0, 1e-2),
    "step after the rank": lambda k, rank: np.where(k <= rank + 1, 1.0, 1e-2),
    "exact rank": lambda k, rank: np.where(k <= rank, 1.0 / k, 0.0),
    "rank-deficient": lambda k, rank: np.where(k <= (rank + 1) // 2, 1.0 / k, 0.0),
    "zero": lambda k, rank: np.zeros_like(k),
    "head and plateau": lambda k, rank: np.where(k <= rank / 2, 0.8**k, 0.02),
}
NOISE = "Gaussian noise"
NAMES = (*SPECTRA, NOISE)


@lru_cache(maxsize=4)
def bases(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(shape)
    small = min(shape)
    left, _ = np.linalg.qr(rng.standard_normal((shape[0], small)))
    right, _ = np.linalg.qr(rng.standard_normal((shape[1], small)))
    return left, right


def matrix(name: str, shape: tuple[int, int], rank: int, norm: float = 1.0) -> NDArray[np.float32]:
    """A float32 matrix of about that Frobenius norm; the zero matrix stays zero."""
    if name == NOISE:
        made = np.random.default_rng((7, *shape)).standard_normal(shape)
    else:
        left, right = bases(shape)
        made = (left * SPECTRA[name](np.arange(1.0, min(shape) + 1), rank)) @ right.T
    size = float(np.linalg.norm(made))
    return (made * (norm / size if size else 0.0)).astype(np.float32)


def error(a: NDArray[np.float32], svd: Any) -> float:
    """‖A - U diag(s) Vt‖_F in double precision."""
    left = svd.U.astype(np.float64) * svd.s.astype(np.float64)
    return float(np.linalg.norm(a.astype(np.float64) - left @ svd.Vt.astype(np.float64)))


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def orthonormal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.linalg.qr(normal(*shape, seed=seed).astype(np.float64))[0].astype(np.float32)
