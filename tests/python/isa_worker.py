"""Runs the kernels of the ISA that LORAGRAFT_ISA names and prints what they found, as JSON.

Started as a process of its own by test_kernels: the choice is made once in a process.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import native_tasks as nt
import spectra
from loragraft import native
from loragraft.linalg import truncated_svd

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Widths around the vectors of every ISA, and one tile and a bit.
WIDTHS = (1, 3, 4, 5, 8, 15, 16, 17, 33, 100, 2304, 2311)
ROWS = 41
SVD_SHAPES = ((70, 65), (100, 2321), (2321, 100))
RANK = 5


def encoded(array: NDArray[np.float32]) -> dict[str, Any]:
    return {"shape": array.shape, "data": base64.b64encode(array.tobytes()).decode()}


def decoded(entry: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(entry["data"]), np.float32).reshape(entry["shape"])


def tensor_name(base: str, tuned: str, width: int) -> str:
    return f"{base}.{tuned}.{width}"


def measure(paths: tuple[Path, Path]) -> dict[str, tuple[float, float, float]]:
    names = [tensor_name(b, t, width) for b in nt.MANTISSA for t in nt.MANTISSA for width in WIDTHS]
    results = nt.run([nt.task(*paths, name, 0) for name in names])
    return {
        name: (result.delta_square, result.base_square, result.rounding_square)
        for name, result in zip(names, results, strict=True)
    }


def factorise(paths: tuple[Path, Path]) -> dict[str, tuple[float, float]]:
    names = [tensor_name(b, t, 2311) for b in nt.MANTISSA for t in nt.MANTISSA]
    results = nt.run([nt.task(*paths, name, RANK) for name in names])
    return {
        name: (result.residual_square, result.optimal_square)
        for name, result in zip(names, results, strict=True)
    }


def decompose() -> list[dict[str, Any]]:
    found = []
    for shape in SVD_SHAPES:
        svd = truncated_svd(spectra.matrix("exact rank", shape, RANK), RANK)
        found.append({"U": encoded(svd.U), "s": encoded(svd.s), "Vt": encoded(svd.Vt)})
    return found


if __name__ == "__main__":
    where = Path(sys.argv[1]), Path(sys.argv[2])
    print(
        json.dumps(
            {
                "isa": native.isa(),
                "measures": measure(where),
                "factors": factorise(where),
                "svds": decompose(),
            }
        )
    )
