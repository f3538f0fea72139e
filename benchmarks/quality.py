"""What an adapter keeps of a change: recomputed in float64 from the files.

Nothing here comes from loragraft: tensors are read by the safetensors library, and the
arithmetic is NumPy's.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors import safe_open

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pairs import Pair

    _Factors = tuple[NDArray[np.float64], NDArray[np.float64]]

_SLAB_ROWS: Final = 128
#: Up to here a full SVD is affordable; beyond, the eigenvalues of the Gram matrix must do.
_SVD_SIDE: Final = 1024
_FIRST_BLOCK: Final = ".layers.0."


@dataclass(frozen=True, slots=True)
class Quality:
    """How well factors stand for ΔW; norms are Frobenius.

    Attributes:
        delta_square: ‖ΔW‖².
        residual_square: ‖ΔW − BA‖².
    """

    delta_square: float
    residual_square: float

    @property
    def error(self) -> float:
        """‖ΔW − BA‖ / ‖ΔW‖."""
        return float(np.sqrt(self.residual_square / self.delta_square))

    @property
    def energy(self) -> float:
        """Share of ‖ΔW‖² kept: 1 − error²."""
        return 1.0 - self.residual_square / self.delta_square


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an adapter of a model of several blocks is worth.

    Attributes:
        energy: Share kept of all modules together; None where only the first block was judged.
        first: Share kept of the first block's modules together.
        excess: Error over the smallest possible one, of the worst module in the first block.
    """

    energy: float | None
    first: float
    excess: float


def judge(pair: Pair, adapter: Path, rank: int, *, complete: bool) -> Verdict:
    """Judge an adapter of a pair, or of a shallower pair that this one begins with.

    Args:
        pair: The two checkpoints.
        adapter: Its directory.
        rank: Of the adapter.
        complete: Look at all blocks, not the first alone.
    """
    with _Delta(pair) as delta:
        block = [name for name in delta.names if _FIRST_BLOCK in name]
    found = measure(pair, {"it": adapter}, None if complete else block)["it"]
    first = [found[name] for name in block]
    excess = max(found[name].error / optimum(pair, name, rank) for name in block)
    energy = together(found.values()).energy if complete else None
    return Verdict(energy, together(first).energy, excess)


def measure(
    pair: Pair, adapters: Mapping[str, Path], names: Iterable[str] | None = None
) -> dict[str, dict[str, Quality]]:
    """Measure adapters against the pair that they were extracted from.

    Args:
        pair: The two checkpoints.
        adapters: Directories of adapters by name.
        names: Tensors to look at; all that have factors in every adapter by default.

    Returns:
        Qualities by adapter and tensor.
    """
    opened = {name: Adapter(path) for name, path in adapters.items()}
    found: dict[str, dict[str, Quality]] = {name: {} for name in adapters}
    with _Delta(pair) as delta:
        for tensor in names or delta.names:
            factors = {name: adapter.factors(tensor) for name, adapter in opened.items()}
            delta_square, residuals = _squares(delta, tensor, factors)
            for name, residual_square in residuals.items():
                found[name][tensor] = Quality(delta_square, residual_square)
    return found


def together(qualities: Iterable[Quality]) -> Quality:
    """Return the quality of several modules as of one."""
    parts = list(qualities)
    return Quality(sum(q.delta_square for q in parts), sum(q.residual_square for q in parts))


def distance(one: Path, other: Path, tensor: str) -> float:
    """Return ‖BA − B'A'‖ of two adapters' factors of one tensor."""
    (b, a), (b2, a2) = Adapter(one).factors(tensor), Adapter(other).factors(tensor)
    return float(np.linalg.norm(b @ a - b2 @ a2))


def optimum(pair: Pair, tensor: str, rank: int) -> float:
    """Return the relative error of the best approximation of a rank (Eckart, Young 1936).

    It is kept beside the pair, for it takes longer than what it judges.
    """
    cache = pair.base.parent / f"optimum-rank-{rank}.json"
    known: dict[str, float] = json.loads(cache.read_text()) if cache.exists() else {}
    if tensor not in known:
        with _Delta(pair) as delta:
            squares = _squared_singular_values(delta.rows(tensor, 0, delta.shape(tensor)[0]))
        known[tensor] = float(np.sqrt(squares[rank:].sum() / squares.sum()))
        cache.write_text(json.dumps(known, indent=2) + "\n")
    return known[tensor]


class Adapter:
    """The factors of a PEFT adapter whose scaling is 1."""

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "adapter_config.json").read_text())
        ranks, alphas = (config.get(f"{key}_pattern") or {} for key in ("rank", "alpha"))
        if config["r"] != config["lora_alpha"] or ranks != alphas:
            raise ValueError(f"{directory.name}: the scaling is not 1")
        self._file = safe_open(directory / "adapter_model.safetensors", "pt")
        self.names = frozenset(self._file.keys())

    def factors(self, tensor: str) -> _Factors:
        """Return B (out, rank) and A (rank, in) of a checkpoint's tensor."""
        key = f"base_model.model.{tensor.removesuffix('.weight')}"
        a, b = (self._file.get_tensor(f"{key}.lora_{side}.weight") for side in "AB")
        return b.double().numpy(), a.double().numpy()


class _Delta:
    """ΔW of every tensor of a pair, by rows, in float64."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._stack = ExitStack()

    def __enter__(self) -> _Delta:
        # torch only widens; its waiting threads would take the cores from NumPy's.
        torch.set_num_threads(1)
        self._sides = [
            self._stack.enter_context(safe_open(side / "model.safetensors", "pt"))
            for side in (self._pair.base, self._pair.tuned)
        ]
        names = list(self._sides[0].keys())
        self.names = [name for name in names if len(self.shape(name)) == 2]
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def shape(self, tensor: str) -> tuple[int, ...]:
        return tuple(self._sides[0].get_slice(tensor).get_shape())

    def rows(self, tensor: str, start: int, stop: int) -> NDArray[np.float64]:
        base, tuned = (side.get_slice(tensor)[start:stop].double().numpy() for side in self._sides)
        tuned -= base
        return np.asarray(tuned, np.float64)


def _squares(
    delta: _Delta, tensor: str, factors: Mapping[str, _Factors]
) -> tuple[float, dict[str, float]]:
    delta_square, residuals = 0.0, dict.fromkeys(factors, 0.0)
    rows = delta.shape(tensor)[0]
    for start in range(0, rows, _SLAB_ROWS):
        stop = min(start + _SLAB_ROWS, rows)
        slab = delta.rows(tensor, start, stop)
        delta_square += float(np.vdot(slab, slab))
        for name, (b, a) in factors.items():
            residual = b[start:stop] @ a
            residual -= slab
            residuals[name] += float(np.vdot(residual, residual))
    return delta_square, residuals


def _squared_singular_values(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return σ², decreasing."""
    if min(matrix.shape) <= _SVD_SIDE:
        return np.asarray(np.linalg.svd(matrix, compute_uv=False) ** 2, np.float64)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return np.asarray(np.maximum(np.linalg.eigvalsh(wide @ wide.T)[::-1], 0.0), np.float64)
