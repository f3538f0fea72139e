"""The parts of distillation against float64, finite differences and known answers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loragraft.errors import MismatchError
from loragraft.transferring.distilling.head import Head
from loragraft.transferring.distilling.minimum import minimize
from loragraft.transferring.distilling.solver import solve
from loragraft.transferring.distilling.tail import RmsNorm, Tail, measured_norm
from loragraft.transferring.distilling.vocabulary import NOBODY, Beginnings, beginnings
from loragraft.transferring.distilling.wanted import Shift, Wanted

if TYPE_CHECKING:
    from pathlib import Path

Array = np.ndarray
EPS = 2.0**-23
PLACES, WIDTH, TOKENS = 40, 12, 30


def log_softmax(values: Array) -> Array:
    values = values - values.max(axis=-1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sums(log_p: Array, beginnings: Array, count: int) -> Array:
    return np.array(
        [[np.exp(row[beginnings == one]).sum() for one in range(count)] for row in log_p]
    )


def test_what_is_wanted_is_the_geometric_mean_of_shift_and_source() -> None:
    draw = rng()
    count = 9
    own, other = (draw.permutation(np.arange(size) % count) for size in (18, TOKENS))
    other[::7] = NOBODY
    own[3] = NOBODY
    target, tuned, source = (
        log_softmax(2.0 * draw.standard_normal((PLACES, size))) for size in (TOKENS, 18, 18)
    )
    known = other != NOBODY
    with_it, without = (np.log(sums(one, own, count)) for one in (tuned, source))
    begun = np.log(sums(target, other, count))
    shifted, split = target.copy(), target.copy()
    shifted[:, known] += (with_it - without)[:, other[known]]
    split[:, known] += (with_it - begun)[:, other[known]]
    expected = np.exp(log_softmax(0.5 * (shifted + split)))
    found = Shift(Beginnings(own, other, count)).wanted(
        *(one.astype(np.float32) for one in (target, tuned, source))
    )
    # All tokens are kept, for there are fewer than that.
    assert (found.tokens == np.arange(TOKENS)).all()
    # Some ten float32 operations on logarithms of up to about 15.
    np.testing.assert_allclose(np.exp(found.log_q), expected, atol=10 * 15 * EPS)
    # Of the source only token 3 begins with nothing that both know.
    np.testing.assert_allclose(found.covered, 1.0 - np.exp(tuned[:, 3]), atol=20 * EPS)


def test_a_source_that_its_adapter_leaves_alone_and_a_target_that_agrees_are_left_alone() -> None:
    target = log_softmax(rng().standard_normal((PLACES, TOKENS))).astype(np.float32)
    same = np.arange(TOKENS)
    found = Shift(Beginnings(same, same, TOKENS)).wanted(target, target, target)
    np.testing.assert_allclose(found.log_q, target, atol=20 * EPS)


class Cutter:
    """A model as far as its tokens go: it writes the longest token that a text begins with."""

    def __init__(self, words: list[str], end: str) -> None:
        self.ids = {word: number for number, word in enumerate([*words, end])}
        self.end = self.ids[end]

    def tokenizer(self, texts: list[str], *, add_special_tokens: bool) -> SimpleNamespace:
        assert not add_special_tokens
        return SimpleNamespace(input_ids=[self._cut(text) for text in texts])

    def _cut(self, text: str) -> list[int]:
        fitting = [word for word in self.ids if text.startswith(word)]
        return [self.ids[max(fitting, key=len)]] if fitting else []


def test_tokens_of_one_side_count_for_those_of_both_that_they_begin_with(tmp_path: Path) -> None:
    own = Cutter(["a", "ab", "abcd", "x", "z"], "<stop>")
    other = Cutter(["a", "abc", "abcde", "x", "y", "yy"], "</s>")
    sides = []
    for name, cutter in (("S", own), ("T", other)):
        (tmp_path / name).mkdir()
        text = json.dumps({"model": {"vocab": cutter.ids}})
        (tmp_path / name / "tokenizer.json").write_text(text)
        sides.append(SimpleNamespace(directory=tmp_path / name))
    found = beginnings(own, other, tuple(sides), (6, 9))  # type: ignore[arg-type]
    # Shared are a, x and the ends; abcd is begun by abc, that by ab, that by a.
    assert found.shared == 3
    a, x, end = found.source[0], found.source[3], found.source[5]
    assert len({a, x, end}) == 3
    assert found.source.tolist() == [a, a, a, x, NOBODY, end]
    assert found.target.tolist() == [a, a, a, x, NOBODY, NOBODY, end, NOBODY, NOBODY]


def made_head(cap: float | None = None, seed: int = 3) -> tuple[Head, Array, Wanted]:
    draw = rng(seed)
    unembedding = draw.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    tokens = np.sort(draw.permuted(np.tile(np.arange(TOKENS), (PLACES, 1)), axis=1)[:, :20], axis=1)
    log_q = log_softmax(draw.standard_normal((PLACES, 20))).astype(np.float32)
    wanted = Wanted(tokens, log_q, np.ones(PLACES, np.float32))
    return Head(unembedding, wanted, cap), unembedding, wanted


@pytest.mark.parametrize("cap", [None, 2.0])
def test_divergence_its_gradient_and_its_curvature(cap: float | None) -> None:
    head, unembedding, wanted = made_head(cap)
    states = rng(4).standard_normal((PLACES, WIDTH))

    def dense(z: Array) -> Array:
        logits = np.einsum("pkd,pd->pk", unembedding[wanted.tokens].astype(np.float64), z)
        log_p = log_softmax(logits if cap is None else cap * np.tanh(logits / cap))
        q = np.exp(wanted.log_q.astype(np.float64))
        return np.asarray((q * (wanted.log_q - log_p)).sum(axis=1))

    found, gradient = head.divergence(states.astype(np.float32))
    np.testing.assert_allclose(found, dense(states), rtol=1e-5, atol=1e-5)
    step = 1e-5
    for axis in range(WIDTH):
        nudge = step * np.eye(WIDTH)[axis]
        slope = (dense(states + nudge) - dense(states - nudge)) / (2 * step)
        np.testing.assert_allclose(gradient[:, axis], slope, rtol=1e-4, atol=1e-4)
    if cap is None:
        rows = unembedding[wanted.tokens].astype(np.float64)
        p = np.exp(log_softmax(np.einsum("pkd,pd->pk", rows, states)))
        spread = np.einsum("pk,pkd,pke->de", p, rows, rows)
        mean = np.einsum("pk,pkd->pd", p, rows)
        expected = (spread - mean.T @ mean) / PLACES
        np.testing.assert_allclose(
            head.fisher(states.astype(np.float32)), expected, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize("is_around", [False, True])
def test_the_way_to_the_head_and_back(is_around: bool) -> None:
    draw = rng(5)
    outputs, stream, by_state = (draw.standard_normal((PLACES, WIDTH)) for _ in range(3))
    after = RmsNorm(draw.uniform(0.5, 2.0, WIDTH)) if is_around else None
    tail = Tail(outputs, stream, after, RmsNorm(draw.uniform(0.5, 2.0, WIDTH)))
    change = 0.3 * draw.standard_normal((PLACES, WIDTH))
    np.testing.assert_allclose(tail.states(np.zeros_like(change)), tail.last(stream), rtol=1e-12)
    gradient = tail.back(change, by_state)
    step = 1e-6
    for axis in range(WIDTH):
        nudge = step * np.eye(WIDTH)[axis]
        moved = (tail.states(change + nudge) - tail.states(change - nudge)) / (2 * step)
        np.testing.assert_allclose(
            gradient[:, axis], (moved * by_state).sum(axis=1), rtol=1e-6, atol=1e-6
        )


def test_a_norm_is_measured_whatever_its_code_makes_of_a_weight() -> None:
    draw = rng(6)
    inputs = draw.standard_normal((PLACES, WIDTH)).astype(np.float32)
    gain = draw.uniform(0.5, 2.0, WIDTH)
    outputs = RmsNorm(gain)(inputs).astype(np.float32)
    np.testing.assert_allclose(measured_norm(inputs, outputs, "norm").gain, gain, rtol=1e-5)
    centred = inputs - inputs.mean(axis=1, keepdims=True)
    with pytest.raises(MismatchError, match="is no RMSNorm"):
        measured_norm(inputs, RmsNorm(gain)(centred) + 0.1, "model.norm")


def test_the_minimum_of_a_quadratic_is_found() -> None:
    draw = rng(7)
    roots = draw.standard_normal((WIDTH, WIDTH))
    matrix = roots @ roots.T / WIDTH + np.eye(WIDTH)
    goal = draw.standard_normal(WIDTH)
    seen = []

    def quadratic(at: Array) -> tuple[float, Array]:
        away = at - goal
        seen.append(float(0.5 * away @ matrix @ away))
        return seen[-1], matrix @ away

    minimize(quadratic, np.zeros(WIDTH), 60)
    assert min(seen) < 1e-12 * seen[0]


def test_a_step_that_goes_too_far_is_shortened_and_nonsense_ends_the_search() -> None:
    seen = []

    def steep(at: Array) -> tuple[float, Array]:
        seen.append(float(at[0]))
        if at[0] > 3.0:
            return float("inf"), np.full(1, np.nan)
        return float((at[0] - 2.0) ** 2 * 50.0), np.array([100.0 * (at[0] - 2.0)])

    minimize(steep, np.zeros(1), 30)
    assert abs(seen[-1] - 2.0) < 1e-3
    minimize(lambda at: (float("nan"), at + 1.0), np.zeros(1), 5)


def known_problem(rank: int, seed: int = 8) -> tuple[Array, Tail, Head, Array]:
    """Wanted distributions that an update of some rank would give."""
    draw = rng(seed)
    places, into = 600, 24
    inputs = draw.standard_normal((places, into)).astype(np.float32)
    outputs, stream = (draw.standard_normal((places, WIDTH)).astype(np.float32) for _ in range(2))
    tail = Tail(outputs, stream, None, RmsNorm(np.ones(WIDTH, np.float32)))
    true = draw.standard_normal((WIDTH, rank)) @ draw.standard_normal((rank, into)) / into**0.5
    unembedding = draw.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    states = tail.states((inputs @ true.T).astype(np.float32))
    log_q = log_softmax(states @ unembedding.T).astype(np.float32)
    tokens = np.tile(np.arange(TOKENS), (places, 1))
    held = np.arange(places) % 5 == 4
    wanted = Wanted(tokens, log_q, np.ones(len(tokens), np.float32))
    return inputs, tail, Head(unembedding, wanted), held


def test_an_update_that_gives_all_that_is_wanted_is_found_for_the_most_part() -> None:
    inputs, tail, head, held = known_problem(2)
    found = solve(inputs, tail, head, held, 2)
    assert found.update.B.shape == (WIDTH, 2)
    assert found.update.A.shape == (2, inputs.shape[1])
    assert found.after < 0.1 * found.before
    change = inputs @ (found.update.B @ found.update.A).T.astype(np.float32)
    own, _ = head.divergence(tail.states(change.astype(np.float32)))
    assert np.isclose(own[held].mean(), found.after, rtol=1e-3)


def test_a_larger_rank_leaves_less_and_the_largest_is_that_of_the_matrix() -> None:
    inputs, tail, head, held = known_problem(6)
    left = [solve(inputs, tail, head, held, rank).after for rank in (1, 3, 6)]
    assert left[0] > left[1] > left[2]
    assert solve(inputs, tail, head, held, 100).update.A.shape[0] == WIDTH


def test_nothing_is_made_of_noise() -> None:
    """Where what is wanted has nothing to do with the inputs, held-out places say so."""
    inputs, tail, _, held = known_problem(1)
    draw = rng(9)
    unembedding = draw.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    states = tail.states(np.zeros_like(tail.outputs))
    noise = states @ unembedding.T + draw.standard_normal((len(states), TOKENS))
    wanted = Wanted(
        np.tile(np.arange(TOKENS), (len(states), 1)),
        log_softmax(noise).astype(np.float32),
        np.ones(len(states), np.float32),
    )
    found = solve(inputs, tail, Head(unembedding, wanted), held, 4)
    # Not worse than nothing, and nothing to speak of better.
    assert 0.9 * found.before < found.after <= found.before * (1.0 + 1e-6)
