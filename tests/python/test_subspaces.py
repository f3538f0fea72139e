"""Subspaces of weights: chance, the cache, ranks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lora_files import random_weights, write_checkpoint
from loragraft.architecture import take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import NonFiniteError, UsageError
from loragraft.subspaces.cache import SubspaceCache, cache_directory
from loragraft.subspaces.chance import deviation, mean_excess, overlap_of
from loragraft.subspaces.finder import SubspaceFinder
from loragraft.subspaces.rank import SubspaceRank, parse_subspace_rank
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.architecture import LinearModule
    from loragraft.subspaces.subspace import Subspace

DOWN = "model.layers.0.mlp.down_proj"


def orthonormal(rng: np.random.Generator, m: int, k: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((m, k)))[0].astype(np.float32)


@pytest.fixture
def linear(tmp_path: Path) -> LinearModule:
    weights = random_weights(dtype="F32")
    inventory = take_inventory(open_checkpoint(write_checkpoint(tmp_path / "model", weights)))
    (found,) = [one for one in inventory.linears if one.name == DOWN]
    return found


def find(linear: LinearModule, cache: SubspaceCache, rank: str = "5") -> Subspace:
    with TensorReader() as reader:
        return SubspaceFinder(reader, cache, parse_subspace_rank(rank)).find(linear)


@pytest.mark.parametrize(("m", "p", "q"), [(40, 8, 8), (40, 8, 20), (24, 1, 1), (30, 29, 3)])
def test_random_subspaces_have_the_derived_mean_and_deviation(m: int, p: int, q: int) -> None:
    rng = np.random.default_rng(1)
    draws = 400
    overlaps = [overlap_of(orthonormal(rng, m, p), orthonormal(rng, m, q)) for _ in range(draws)]
    found = [overlap.similarity for overlap in overlaps if overlap.similarity is not None]
    sigma = deviation(m, p, q)
    # Five standard errors of the mean, and of the deviation, whose relative error is about
    # sqrt((kurtosis - 1) / 4n), below 0.12 for the squared cosine of one direction (kurtosis 15).
    assert abs(np.mean(found) - max(p, q) / m) <= 5 * sigma / math.sqrt(draws)
    assert abs(np.std(found) / sigma - 1) <= 5 * 0.12
    assert overlaps[0].excess == pytest.approx((found[0] - max(p, q) / m) / (1 - max(p, q) / m))
    assert overlaps[0].z == pytest.approx((found[0] - max(p, q) / m) / sigma)


def test_the_same_subspace_has_excess_one_whatever_the_signs() -> None:
    rng = np.random.default_rng(2)
    basis = orthonormal(rng, 60, 12)
    flipped = basis * np.where(rng.random(12) < 0.5, -1.0, 1.0).astype(np.float32)
    overlap = overlap_of(basis, flipped)
    # Columns of float32 are orthonormal to about 12 units in the last place each.
    assert overlap.excess == pytest.approx(1.0, abs=2 * 12 * 2.0**-23)
    assert overlap.is_clear


def test_what_is_not_defined_says_why() -> None:
    rng = np.random.default_rng(3)
    other = overlap_of(orthonormal(rng, 60, 8), orthonormal(rng, 96, 8))
    assert other.similarity is None
    assert other.excess is None
    assert "60 and 96" in other.why
    whole = overlap_of(np.eye(8, dtype=np.float32), orthonormal(rng, 8, 8))
    assert whole.excess is None
    assert whole.z is None
    assert "whole space" in whole.why
    assert mean_excess(other, whole) is None


def test_subspaces_are_those_of_a_full_svd(linear: LinearModule) -> None:
    found = find(linear, SubspaceCache(None))
    weight = random_weights(dtype="F32")[f"{DOWN}.weight"].astype(np.float64)
    u, s, vt = np.linalg.svd(weight)
    # The matrix is small enough for the full SVD, backward stable in float32: subspaces move by
    # at most eps ‖W‖ / gap, here times the usual small factor.
    bound = 50 * 2.0**-24 * s[0] / (s[4] - s[5])
    assert found.norm == pytest.approx(np.linalg.norm(weight), rel=1e-14)
    assert np.linalg.norm(found.U - u[:, :5] @ (u[:, :5].T @ found.U)) <= bound
    assert np.linalg.norm(found.V - vt[:5].T @ (vt[:5] @ found.V)) <= bound
    largest = np.abs(found.U).argmax(axis=0)
    assert (found.U[largest, range(5)] > 0).all()


def test_a_share_of_the_energy_gives_the_least_rank(linear: LinearModule) -> None:
    weight = random_weights(dtype="F32")[f"{DOWN}.weight"].astype(np.float64)
    s = np.linalg.svd(weight, compute_uv=False)
    held = np.cumsum(s**2) / np.sum(s**2)
    for share in (0.3, 0.5, 0.9, 1.0):
        found = find(linear, SubspaceCache(None), f"energy={share}")
        assert found.rank == int(np.argmax(held >= share * (1 - 1e-6))) + 1


def test_a_cached_subspace_is_the_same_to_the_bit(linear: LinearModule, tmp_path: Path) -> None:
    first = find(linear, SubspaceCache(tmp_path / "cache"))
    cache = SubspaceCache(tmp_path / "cache")
    again = find(linear, cache)
    assert cache.hits == 1
    assert first.norm == again.norm
    for one, other in zip(first[:3], again[:3], strict=True):
        assert one.tobytes() == other.tobytes()
        assert one.shape == other.shape
    other = SubspaceCache(tmp_path / "cache")
    find(linear, other, "6")
    assert other.hits == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "directory"])
def test_a_damaged_cache_costs_time_and_nothing_else(
    linear: LinearModule, tmp_path: Path, damage: str
) -> None:
    first = find(linear, SubspaceCache(tmp_path / "cache"))
    (path,) = (tmp_path / "cache").glob("*/*.subspace")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(data[: 0 if damage == "empty" else 40])
    cache = SubspaceCache(tmp_path / "cache")
    again = find(linear, cache)
    assert cache.hits == 0
    assert first.U.tobytes() == again.U.tobytes()
    assert bool(cache.failure) == (damage == "directory")
    assert not list((tmp_path / "cache").glob("*/*.tmp"))


def test_the_cache_is_cut_to_its_size(linear: LinearModule, tmp_path: Path) -> None:
    cache = SubspaceCache(tmp_path / "cache")
    for rank in ("2", "3", "4"):
        find(linear, cache, rank)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "cache").glob("*/*.subspace"))
    cache.trim(sizes[-1])
    assert len(list((tmp_path / "cache").glob("*/*.subspace"))) == 1


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LORAGRAFT_CACHE", raising=False)
    assert cache_directory() == tmp_path / "loragraft"
    monkeypatch.setenv("LORAGRAFT_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")
    assert cache_directory() is None


def test_nan_is_named(tmp_path: Path) -> None:
    weights = random_weights(dtype="F32")
    weights[f"{DOWN}.weight"][1, 2] = np.nan
    inventory = take_inventory(open_checkpoint(write_checkpoint(tmp_path / "model", weights)))
    (linear,) = [one for one in inventory.linears if one.name == DOWN]
    with pytest.raises(NonFiniteError, match=DOWN):
        find(linear, SubspaceCache(None))


@pytest.mark.parametrize("text", ["0", "-3", "energy=0", "energy=1.5", "energy=x", "many", ""])
def test_bad_ranks_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--subspace-rank"):
        parse_subspace_rank(text)
    assert parse_subspace_rank(64) == SubspaceRank(64)
    assert str(parse_subspace_rank("energy=0.9")) == "energy=0.9"


@pytest.mark.parametrize("iterations", [0, 1, None])
def test_unsettled_subspaces_of_unrelated_weights_stay_at_chance(
    tmp_path: Path, iterations: int | None
) -> None:
    # With one sketch for both the input sides overlap by dozens of standard deviations.
    rng = np.random.default_rng(5)
    names = [f"model.layers.{layer}.mlp.up_proj" for layer in range(2)]
    weights = {f"{name}.weight": rng.standard_normal((600, 200)).astype("f4") for name in names}
    inventory = take_inventory(open_checkpoint(write_checkpoint(tmp_path / "model", weights)))
    with TensorReader() as reader:
        rule = SubspaceRank(40)
        finder = SubspaceFinder(reader, SubspaceCache(None), rule, power_iterations=iterations)
        first, second = (finder.find(linear) for linear in inventory.linears)
    for one, other in ((first.U, second.U), (first.V, second.V)):
        overlap = overlap_of(one, other)
        assert overlap.z is not None
        assert abs(overlap.z) < 5
        assert not overlap.is_clear
