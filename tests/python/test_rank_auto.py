"""``--rank auto`` on made merges: the rank that was merged, from the stored weights alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

import made_merges as made
from loragraft.extraction.ranks.auto import AutoRank, own_rank
from loragraft.extraction.ranks.floor import (
    above_floor,
    count_above,
    noise_edge,
    rounding_floor,
    rounding_of_pair,
)
from loragraft.extraction.ranks.steps import common_step, sharpness, steps_of

AUTO = AutoRank(64)


@pytest.mark.parametrize("shape", [(300, 300), (60, 400), (30, 30)])
def test_noise_stays_below_the_edge(shape: tuple[int, int]) -> None:
    """The edge is a quantile of 99.9 %: of 60 matrices hardly one exceeds it by a percent."""
    rng = np.random.default_rng(5)
    largest = [np.linalg.norm(rng.standard_normal(shape), 2) for _ in range(60)]
    edge = noise_edge(shape, math.prod(shape))
    assert max(largest) < 1.01 * edge
    # Nor is it far away: the largest value of noise lies within three standard deviations,
    # 1.27 times the width of the law, below its quantile; 4 % for a side of 30, less beyond.
    assert np.median(largest) > 0.85 * edge


def test_edges_of_nothing() -> None:
    assert noise_edge((0, 5), 1.0) == noise_edge((5, 5), 0.0) == 0.0
    assert count_above([], 1.0) == 0
    assert count_above([3.0, 2.0, 2.0, 1.0], 2.0) == 1
    assert count_above([3.0, 2.0, 2.0, 1.0], 1.9) == 3


def test_a_base_stored_more_coarsely() -> None:
    """Its units in the last place are 2^13 times as large."""
    assert rounding_of_pair(1.0, "F16", "F32") == 1.0 + 4.0**13
    assert rounding_of_pair(1.0, "F32", "BF16") == rounding_of_pair(1.0, "BF16", "BF16") == 1.0
    assert rounding_of_pair(1.0, "F8_E4M3", "BF16") == 1.0


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("code", ["BF16", "F16", "F32"])
def test_merged_loras(rank: int, code: str) -> None:
    """ΔW is twice the last place of bf16, as in real merges; finer formats drown nothing."""
    found = AUTO.choose(made.merged_model(rank, code=code, seed=rank))
    assert set(found) == {rank}


@pytest.mark.parametrize("size", [0.3, 1.0, 5.0, 20.0])
def test_merged_loras_of_all_sizes(size: float) -> None:
    """From a third of the last place, which leaves half of the weights as they were."""
    found = AUTO.choose(made.merged_model(8, size=size, decay=0.3, seed=2))
    assert set(found) == {8}


@pytest.mark.parametrize("code", ["BF16", "F32"])
def test_singular_values_of_the_kernels(code: str) -> None:
    """Single precision leaves values of up to 1e-6 of the largest where there are none."""
    found = AUTO.choose(made.merged_model(8, code=code, layers=1, kernels=True, size=20.0))
    assert set(found) == {8}


def test_exact_products_have_their_rank() -> None:
    """Nothing was rounded: behind the rank there is only arithmetic."""
    values = [2.0**-k for k in range(6)] + [3e-8] * 20
    spectrum = made.spectrum_of(values)
    assert AUTO.choose([spectrum]) == [6]
    assert AUTO.choose([made.spectrum_of([2.0, 1.0])]) == [2]


def test_a_module_alone() -> None:
    """Where many modules are of one mind, each alone is right nearly as often."""
    spectra = made.merged_model(8, size=3.0, decay=0.5, layers=2)
    alone = [AUTO.choose([spectrum])[0] for spectrum in spectra]
    assert np.mean(np.equal(alone, 8)) >= 0.9


def test_many_modules_settle_what_one_cannot() -> None:
    """Singular values fall by 1/k: the eighth is lost in some of the modules."""
    spectra = made.merged_model(8, size=0.5, layers=5, seed=4)
    alone = [own_rank(steps_of(spectrum)) for spectrum in spectra]
    assert 0.2 < np.mean(np.equal(alone, 8)) < 0.95
    assert np.mean(np.equal(AUTO.choose(spectra), 8)) >= 0.95


def test_groups_with_ranks_of_their_own() -> None:
    """A LoRA of rank 16 on two kinds of layers and of rank 4 on the others."""
    spectra = made.merged_model(16, size=4.0, layers=4)
    others = made.merged_model(4, size=4.0, layers=4, seed=1)
    mixed = [
        b if a.group in {"proj0", "proj3"} else a for a, b in zip(spectra, others, strict=True)
    ]
    expected = [4 if spectrum.group in {"proj0", "proj3"} else 16 for spectrum in mixed]
    assert AUTO.choose(mixed) == expected


def test_untouched_and_drowned_modules_among_others() -> None:
    spectra = made.merged_model(4, size=3.0)
    rng = np.random.default_rng(0)
    base = made.weights(rng, (192, 192))
    flips = np.where(rng.random(base.shape) < 1e-3, 0.02 * base, 0.0)
    drowned = made.stored(base, flips)
    found = AUTO.choose([*spectra, made.spectrum_of([]), drowned])
    assert found[:-2] == [4] * len(spectra)
    assert found[-2] == 0
    # Its noise is that of single weights, the most uneven there is.
    assert found[-1] <= 8


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_full_fine_tunes_keep_all_they_may(exponent: float) -> None:
    """Singular values k^-a, far above the rounding: no rank is right, the largest is taken."""
    rng = np.random.default_rng(1)
    spectra = []
    for shape in made.SHAPES:
        base = made.weights(rng, shape)
        change = 10 * made.unit_in_last_place(base) * made.power_law(rng, shape, exponent)
        spectra.append(made.stored(base, change, most=32))
    assert AutoRank(32).choose(spectra) == [32] * len(spectra)
    assert common_step([steps_of(spectrum) for spectrum in spectra]) is None


def test_a_leading_direction_is_no_lora() -> None:
    """One direction stands far above a change of full rank, in all modules alike."""
    rng = np.random.default_rng(3)
    spectra = []
    for shape in made.SHAPES * 3:
        base = made.weights(rng, shape)
        rest = made.power_law(rng, shape, 0.4)
        change = 6 * made.unit_in_last_place(base) * (rest + 2 * made.low_rank(rng, shape, 1))
        spectra.append(made.stored(base, change, most=32))
    assert AutoRank(32).choose(spectra) == [32] * len(spectra)


def test_noise_alone_has_no_rank() -> None:
    """Weights that were rounded twice differ by noise of the size that is expected."""
    rng = np.random.default_rng(7)
    spectra = []
    for _ in range(8):
        base = made.weights(rng, (192, 256))
        error = made.unit_in_last_place(base) * rng.uniform(-0.5, 0.5, base.shape)
        spectra.append(made.stored(base, error))
    assert max(AUTO.choose(spectra)) <= 1


def test_the_largest_rank_limits() -> None:
    spectra = made.merged_model(16, layers=1)
    assert AutoRank(8).choose(
        [
            s._replace(
                singular_values=(s.singular_values[0][:8],),
                optimal_squares=(s.optimal_squares[0][:8],),
                residual_squares=(s.residual_squares[0][:8],),
            )
            for s in spectra
        ]
    ) == [8] * len(spectra)
    assert AutoRank(10).choose(spectra) == [10] * len(spectra)


def test_experts_share_the_rank_of_the_most_demanding() -> None:
    """A merged LoRA has one rank; experts that were hardly trained do not lower it."""
    blocks = [
        made.together(
            [
                spectrum
                for spectrum in made.merged_model(4, size=3.0, seed=seed)
                if spectrum.shape == (192, 192)
            ]
        )
        for seed in range(4)
    ]
    assert AUTO.choose(blocks) == [4] * len(blocks)
    weak = made.merged_model(4, size=0.05, layers=1)[0]
    equal = made.spectrum_of([], shape=weak.shape)
    assert AUTO.choose([*blocks, made.together([weak, equal, blocks[0]])]) == [4] * 5
    # Without others to learn from, the expert that shows most decides.
    alone = [AUTO.choose([part])[0] for part in (weak, blocks[0])]
    assert AUTO.choose([made.together([weak, equal, blocks[0]])])[0] >= min(alone)


def test_sharpness_of_smooth_spectra() -> None:
    """A power law has no step; one step shows at its place and nowhere behind it."""
    assert max(sharpness([1 / k for k in range(1, 60)])) < math.log(1.2)
    values = [1.0, 0.9, 0.8, 0.7] + [0.1 * 0.999**k for k in range(30)]
    found = sharpness(values)
    assert max(range(len(found)), key=found.__getitem__) == 3
    assert max(found[4:]) < math.log(1.2)
    assert sharpness([]) == sharpness([0.0, 0.0]) == sharpness([1.0, 0.5]) == []


def test_what_counts_as_rounding() -> None:
    spectrum = made.merged_model(4, layers=1)[0]
    left_out = spectrum.optimum
    floor = rounding_floor(spectrum.delta_square, spectrum.rounding_square)
    assert left_out[4] < floor < left_out[1]
    assert steps_of(spectrum).ends_at(4)
    assert not steps_of(spectrum).ends_at(1)
    assert above_floor(spectrum, 0) >= 4
