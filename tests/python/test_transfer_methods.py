"""The maps of each method against their formulas, written out densely in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from loragraft.errors import UsageError
from loragraft.subspaces.subspace import Subspace
from loragraft.transferring.methods import AUTO, CALIBRATED, CHOICES, METHODS, require_method
from loragraft.transferring.methods.method import Bases
from loragraft.transferring.update import Update, balanced, mapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

RANK = 3
SMALL, LARGE = (12, 20), (18, 28)
#: Products of a handful of matrices with norms of one, in float64.
CLOSE = 200 * 2.0**-53


def subspace(shape: tuple[int, int], r: int, seed: int) -> Subspace:
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((shape[0], r)))[0]
    v = np.linalg.qr(rng.standard_normal((shape[1], r)))[0]
    # Kept in float64, so that the projections are exact to its rounding.
    return Subspace(u, np.ones(r), v, 1.0)  # type: ignore[arg-type]


def update(shape: tuple[int, int], seed: int = 0) -> Update:
    rng = np.random.default_rng(seed)
    return Update(rng.standard_normal((shape[0], RANK)), rng.standard_normal((RANK, shape[1])))


def transferred(name: str, change: Update, bases: Bases) -> Array:
    out = mapped(change, METHODS[name].terms(bases))
    return np.asarray(out.B @ out.A)


def assert_close(found: Array, expected: Array, scale: Array) -> None:
    assert np.linalg.norm(found - expected) <= CLOSE * np.linalg.norm(scale)


def test_lora_x_is_equation_3() -> None:
    bases = Bases(subspace(SMALL, 5, 1), subspace(SMALL, 5, 2))
    change = update(SMALL)
    delta = change.B @ change.A
    u, v = bases.target.U, bases.target.V
    assert_close(transferred("lora-x", change, bases), u @ u.T @ delta @ v @ v.T, delta)


def test_lora_x_between_shapes_is_the_least_norm_map() -> None:
    bases = Bases(subspace(SMALL, 5, 1), subspace(LARGE, 5, 2))
    change = update(SMALL)
    delta = change.B @ change.A
    p = bases.target.U @ np.linalg.pinv(bases.source.U)
    q = bases.target.V @ np.linalg.pinv(bases.source.V)
    assert_close(transferred("lora-x", change, bases), p @ delta @ q.T, delta)


def test_cross_lora_aligns_and_shifts() -> None:
    bases = Bases(subspace(SMALL, 5, 1), subspace(SMALL, 5, 2))
    change = update(SMALL)
    delta = change.B @ change.A
    (us, _, vs, _), (ut, _, vt, _) = bases
    aligned_u = us @ np.linalg.lstsq(us, ut, rcond=None)[0]
    aligned_v = vs @ np.linalg.lstsq(vs, vt, rcond=None)[0]
    assert_close(
        transferred("cross-lora", change, bases),
        ut @ (aligned_u.T @ delta @ aligned_v) @ vt.T,
        delta,
    )
    # Which is equation 3 of LoRA-X after a projection on the source's own subspaces.
    own = us @ us.T @ delta @ vs @ vs.T
    assert_close(transferred("cross-lora", change, bases), ut @ ut.T @ own @ vt @ vt.T, delta)


def test_cross_lora_is_repaired_on_the_side_that_differs_alone() -> None:
    bases = Bases(subspace((12, 20), 5, 1), subspace((12, 28), 5, 2))
    change = update((12, 20))
    delta = change.B @ change.A
    (us, _, vs, _), (ut, _, vt, _) = bases
    expected = ut @ (ut.T @ us) @ us.T @ delta @ vs @ vt.T
    assert_close(transferred("cross-lora", change, bases), expected, delta)
    remark = METHODS["cross-lora"].remark((12, 20), (12, 28))
    assert "input side" in remark
    assert "output" not in remark.partition(";")[0]
    assert METHODS["cross-lora"].remark((12, 20), (12, 20)) == ""


def test_prolora_keeps_both_parts() -> None:
    bases = Bases(subspace(SMALL, 5, 1), subspace(SMALL, 5, 2))
    change = update(SMALL)
    delta = change.B @ change.A
    (us, _, vs, _), (ut, _, vt, _) = bases
    m, n = np.eye(SMALL[0]), np.eye(SMALL[1])
    inside = us @ us.T @ delta @ vs @ vs.T
    outside = (m - us @ us.T) @ delta @ (n - vs @ vs.T)
    expected = ut @ ut.T @ inside @ vt @ vt.T
    expected += (m - ut @ ut.T) @ outside @ (n - vt @ vt.T)
    assert_close(transferred("prolora", change, bases), expected, delta)
    # Its rank is twice that of the adapter; what cutting it back costs is the tail of its SVD.
    cut = balanced(mapped(change, METHODS["prolora"].terms(bases)), RANK)
    s = np.linalg.svd(expected, compute_uv=False)
    assert cut.update.rank == RANK
    assert cut.lost == pytest.approx(np.sum(s[RANK:] ** 2) / np.sum(s**2), rel=1e-9)


def test_a_copy_is_one_and_a_padded_copy_goes_by_index() -> None:
    change = update(SMALL)
    delta = change.B @ change.A
    same = Bases(subspace(SMALL, 5, 1), subspace(SMALL, 5, 2))
    assert_close(transferred("copy", change, same), delta, delta)
    padded = transferred("padded-copy", change, Bases(same.source, subspace((18, 10), 5, 2)))
    expected = np.zeros((18, 10))
    expected[:12] = delta[:, :10]
    assert_close(padded, expected, delta)


@pytest.mark.parametrize("name", ["lora-x", "cross-lora", "prolora"])
def test_signs_of_singular_vectors_change_nothing_between_equal_shapes(name: str) -> None:
    bases = Bases(subspace(SMALL, 5, 1), subspace(SMALL, 5, 2))
    change = update(SMALL)
    first = transferred(name, change, bases)
    for seed in range(4):
        flipped = Bases(*(_flipped(one, seed + i) for i, one in enumerate(bases)))
        assert_close(transferred(name, change, flipped), first, change.B @ change.A)


def test_signs_decide_everything_between_different_shapes() -> None:
    # What the remark in the report warns of: two valid choices of signs, unrelated answers.
    bases = Bases(subspace(SMALL, 5, 1), subspace(LARGE, 5, 2))
    change = update(SMALL)
    first = transferred("lora-x", change, bases)
    other = transferred("lora-x", change, Bases(bases.source, _flipped(bases.target, 3)))
    assert np.linalg.norm(first - other) > 0.5 * np.linalg.norm(first)
    assert "index" in METHODS["lora-x"].remark(SMALL, LARGE)
    assert METHODS["lora-x"].remark(SMALL, SMALL) == ""


@pytest.mark.parametrize("name", ["lora-x", "cross-lora", "prolora"])
@pytest.mark.parametrize("shapes", [((120, 90), (120, 90)), ((120, 90), (150, 100))])
def test_chance_is_what_random_subspaces_keep(
    name: str, shapes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    source, target = shapes
    if METHODS[name].refusal(source, target):
        assert name == "prolora"
        return
    kept, chance = [], 0.0
    for seed in range(40):
        bases = Bases(subspace(source, 18, 2 * seed), subspace(target, 18, 2 * seed + 1))
        change = update(source, seed + 1000)
        kept.append((mapped(change, METHODS[name].terms(bases)).norm / change.norm) ** 2)
        chance = METHODS[name].chance(bases)
    # Five standard errors of the mean of the squares, estimated from the draws themselves.
    error = 5 * np.std(kept) / len(kept) ** 0.5
    assert abs(np.mean(kept) - chance**2) <= error


def test_norms_and_balance_of_factored_updates() -> None:
    change = update(LARGE)
    delta = change.B @ change.A
    assert change.norm == pytest.approx(np.linalg.norm(delta), rel=CLOSE)
    even, lost = balanced(change, 8)
    assert lost == 0.0
    assert even.rank == RANK
    assert_close(even.B @ even.A, delta, delta)
    assert np.allclose(even.B.T @ even.B, even.A @ even.A.T, atol=1e-12 * even.norm)
    # Where a product cancels, ‖B A‖ is not lost in the norms of the factors.
    tiny = Update(np.hstack([change.B, -change.B]), np.vstack([change.A, change.A * (1 + 1e-9)]))
    assert tiny.norm == pytest.approx(1e-9 * change.norm, rel=1e-5)


@pytest.mark.parametrize("name", ["padded-copy", "x"])
def test_methods_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"--method '?{name}"):
        require_method(name)
    # `auto` takes texts, and does without.
    require_method(AUTO)
    require_method(AUTO, calibrated=True)
    for known in CHOICES:
        require_method(known, calibrated=known in CALIBRATED)
        if known == AUTO:
            continue
        with pytest.raises(UsageError, match="--calibration"):
            require_method(known, calibrated=known not in CALIBRATED)


def _flipped(one: Subspace, seed: int) -> Subspace:
    signs = np.where(np.random.default_rng(seed).random(one.rank) < 0.5, -1.0, 1.0)
    signs[0] = -1.0
    return Subspace(one.U * signs, one.s, one.V * signs, one.norm)
