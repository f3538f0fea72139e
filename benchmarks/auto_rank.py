"""How often ``--rank auto`` finds the rank of a LoRA that was merged.

    .venv/bin/python benchmarks/auto_rank.py [--real BASE ADAPTER]...

Made merges: a model of two layers with the shapes of SmolLM2-135M, base weights stored in a format,
a LoRA of known rank added, the sum stored in the same format. Real ones: an adapter is merged into
a base checkpoint in memory, as `loragraft merge` would. Either way the rank is chosen from 128
singular values of what is stored, computed by the kernels. Takes some minutes on one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np

from loragraft import linalg
from loragraft.extraction.ranks import AutoRank, Spectrum
from loragraft.extraction.ranks.auto import own_rank
from loragraft.extraction.ranks.steps import steps_of
from markdown import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

RANKS: Final = (4, 8, 16, 32, 64)
SIZES: Final = {"BF16": (0.2, 0.5, 1.0, 3.0, 10.0), "F16": (0.2, 1.0, 10.0), "F32": (0.2, 10.0)}
FORMATS: Final[dict[str, tuple[Any, int]]] = {
    "BF16": (ml_dtypes.bfloat16, 7),
    "F16": (np.float16, 10),
    "F32": (np.float32, 23),
}
SHAPES: Final = ((576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (576, 1536)) * 2
LARGE_RANKS: Final = (8, 32)
LARGE_SIZES: Final = {"BF16": (0.5, 1.0, 2.0)}
LARGE: Final = ((2048, 2048), (2048, 8192), (8192, 2048)) * 2
RULE: Final = AutoRank(128)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for the modules of one model.

    Attributes:
        rank: The truth.
        together: By the rule, which sees all modules.
        alone: From each module's spectrum by itself.
    """

    rank: int
    together: list[int]
    alone: list[int]

    @classmethod
    def of(cls, rank: int, spectra: Sequence[Spectrum]) -> Outcome:
        """Apply the rule."""
        alone = [own_rank(steps_of(spectrum)) for spectrum in spectra]
        return cls(rank, RULE.choose(spectra), alone)

    def cell(self) -> str:
        """Return the share of modules that are right, and the median where not all are."""
        share = self._share(self.together)
        middle = "" if share == 1.0 else f", median {statistics.median(self.together):g}"
        return f"{share:.0%} ({self._share(self.alone):.0%}){middle}"

    def _share(self, found: Sequence[int]) -> float:
        return sum(rank == self.rank for rank in found) / len(found)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", nargs=2, type=Path, action="append", default=[])
    parser.add_argument("--large", action="store_true", help="one table of large matrices instead")
    options = parser.parse_args()
    for base, adapter in options.real:
        outcome = Outcome.of(*real(base, adapter))
        found = sorted(set(outcome.together))
        print(f"{adapter.name}, rank {outcome.rank}: {outcome.cell()}, found {found}", flush=True)
    ranks, sizes, shapes = (
        (LARGE_RANKS, LARGE_SIZES, LARGE) if options.large else (RANKS, SIZES, SHAPES)
    )
    for decay in (1.0,) if options.large else (1.0, 0.0):
        print(f"\nSingular values of the LoRA fall as k^-{decay:g}\n")
        head = ["format", "size", *(f"rank {rank}" for rank in ranks)]
        print(table(head, list(rows(decay, ranks, sizes, shapes))))
        sys.stdout.flush()


def rows(
    decay: float,
    ranks: Sequence[int],
    sizes: Mapping[str, Sequence[float]],
    shapes: Sequence[tuple[int, int]],
) -> Iterator[list[str]]:
    """Yield a line for every format and size of the change."""
    for code, of_code in sizes.items():
        for size in of_code:
            outcomes = [Outcome.of(rank, made(rank, size, code, decay, shapes)) for rank in ranks]
            yield [code, f"{size:g}", *(outcome.cell() for outcome in outcomes)]


def made(
    rank: int, size: float, code: str, decay: float, shapes: Sequence[tuple[int, int]]
) -> list[Spectrum]:
    """Return the spectra of a made merge.

    Args:
        rank: Of the LoRA.
        size: Root mean square of its change over that of the weights' units in the last bf16 place.
        code: Format in which both sides are stored.
        decay: The LoRA's singular values are k^-decay.
        shapes: Of the weights.
    """
    rng = np.random.default_rng([rank, int(10 * size), int(decay), *code.encode()])
    spectra = []
    for number, shape in enumerate(shapes):
        rows_, columns = np.exp(0.2 * rng.standard_normal(shape[0])), rng.standard_normal(shape[1])
        base = 0.04 * rng.standard_normal(shape) * np.outer(rows_, np.exp(0.4 * columns))
        left = np.linalg.qr(rng.standard_normal((shape[0], rank)))[0]
        right = np.linalg.qr(rng.standard_normal((shape[1], rank)))[0]
        change = (left * np.arange(1.0, rank + 1) ** -decay) @ right.T
        change *= size * root_mean_square(last_place(base, 7)) / root_mean_square(change)
        spectra.append(spectrum(base, change, code, f"kind {number % 6}"))
    return spectra


def real(base: Path, adapter: Path) -> tuple[int, list[Spectrum]]:
    """Return the rank of a PEFT adapter and the spectra of its merge."""
    import json

    from safetensors import safe_open

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    spectra = []
    with (
        safe_open(base / "model.safetensors", "pt") as weights,
        safe_open(adapter / "adapter_model.safetensors", "pt") as factors,
    ):
        for key in factors.keys():  # noqa: SIM118
            name = key.removesuffix(".lora_A.weight")
            if name == key:
                continue
            b, a = (factors.get_tensor(f"{name}.lora_{x}.weight").double().numpy() for x in "BA")
            weight = weights.get_tensor(f"{name.removeprefix('base_model.model.')}.weight")
            change = config["lora_alpha"] / config["r"] * (b @ a)
            kind = name.rpartition(".")[2]
            spectra.append(spectrum(weight.double().numpy(), change, "BF16", kind))
    return config["r"], spectra


def spectrum(
    base: NDArray[np.float64], change: NDArray[np.float64], code: str, kind: str
) -> Spectrum:
    """Return the spectrum of ΔW as it is stored, by the kernels."""
    dtype, bits = FORMATS[code]
    before = base.astype(dtype).astype(np.float64)
    after = (before + change).astype(dtype).astype(np.float64)
    delta = after - before
    svd = linalg.truncated_svd(delta.astype(np.float32), min(RULE.most, *delta.shape))
    rest = delta - (svd.U.astype(np.float64) * svd.s) @ svd.Vt
    left_out = ((float(np.sum(rest**2)),),)
    return Spectrum(
        singular_values=(tuple(map(float, svd.s)),),
        delta_squares=(float(np.sum(delta**2)),),
        rounding_squares=(float(np.sum(last_place(after, bits) ** 2)) / 12,),
        optimal_squares=left_out,
        residual_squares=left_out,
        shape=delta.shape,
        group=kind,
    )


def last_place(weights: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Return the unit in the last place of every weight."""
    _, exponents = np.frexp(weights)
    return np.where(weights == 0, 0.0, np.exp2(exponents - 1.0 - bits))


def root_mean_square(array: NDArray[np.float64]) -> float:
    """Return the root of the mean of squares."""
    return float(np.sqrt(np.mean(array**2)))


if __name__ == "__main__":
    main()
