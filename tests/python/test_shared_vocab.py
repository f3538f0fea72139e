"""shared-vocab against models that are the source in other coordinates: the answer is known."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import turned_models as made
from command_line import CommandLine, loragraft
from extraction_checks import factors, load_peft
from loragraft import transfer
from loragraft.transferring.stream.assignment import assign, greedy, shared_assignment
from loragraft.transferring.stream.heads import rotary
from loragraft.transferring.stream.neurons import match_neurons, neuron_spaces
from loragraft.transferring.stream.procrustes import polar
from loragraft.transferring.stream.tokens import read_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.transferring import Transfer

    Array = made.Array

__all__ = ["loragraft"]
U = 2.0**-24


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")


def error_bound(model: dict[str, Array], goal: dict[str, Array], how: made.Turn, n: int) -> float:
    """How far rounding the target to float32 may take a relative result, to first order.

    With X_t = X_s Rᵀ + E the polar factor R of X_tᵀ X_s moves by at most ‖Eᵀ X_s‖ / σ_n(X_s)², X
    centred. The turn within a head carries that error from either side, and that of rounding its
    own V and O, which are as well conditioned: three times in all. Writing the factors adds u each.
    """
    name = "model.embed_tokens.weight"
    order = np.argsort(how.tokens)[:n]
    x, stored = model[name][:n], goal[name].astype(np.float32).astype(np.float64)[order]
    error = stored - goal[name][order]
    error -= error.mean(axis=0)
    x = x - x.mean(axis=0)
    least = np.linalg.svd(x, compute_uv=False)[-1]
    turned = x @ how.rotation.T
    return float(3.0 * np.linalg.norm(error.T @ turned) / least**2 + 2.0 * U)


def deltas_of(result: Transfer) -> dict[str, Array]:
    return {
        name: b.astype(np.float64) @ a.astype(np.float64)
        for name, (b, a) in factors(result.output).items()
    }


def worst(found: dict[str, Array], expected: dict[str, Array]) -> float:
    assert found.keys() == expected.keys()
    return max(
        float(np.linalg.norm(found[name] - delta) / np.linalg.norm(delta))
        for name, delta in expected.items()
    )


ONE_ALONE = {
    "the same": made.turn(stream=False, heads=False, neurons=False, tokens=False),
    "stream": made.turn(heads=False, neurons=False, tokens=False),
    "heads": made.turn(stream=False, neurons=False, tokens=False),
    "neurons": made.turn(stream=False, heads=False, tokens=False),
    "tokens": made.turn(stream=False, heads=False, neurons=False),
    "all": made.turn(),
}


@pytest.mark.parametrize("which", ONE_ALONE)
@pytest.mark.parametrize("gains", [False, True])
def test_the_same_model_in_other_coordinates(tmp_path: Path, which: str, gains: bool) -> None:
    how = ONE_ALONE[which]
    model = made.tensors(gains=gains)
    goal = made.turned(model, how)
    # The fifth of the vocabulary that is not shared means something else to the target.
    kept = int(0.8 * made.TOKENS)
    rows = how.tokens >= kept
    goal["model.embed_tokens.weight"][rows] = np.random.default_rng(3).standard_normal(
        (rows.sum(), made.WIDTH)
    )
    source = made.save(
        tmp_path / "S", model, made.config(model), made.words(np.arange(made.TOKENS))
    )
    target = made.save(tmp_path / "T", goal, made.config(goal), made.words(how.tokens, 0.8))
    adapter, deltas = made.adapter(tmp_path / "A", model)
    result = transfer(adapter, source, target, tmp_path / "out", method="shared-vocab")
    expected = {name: made.turned_matrix(name, delta, model, how) for name, delta in deltas.items()}
    error = worst(deltas_of(result), expected)
    bound = error_bound(model, goal, how, kept)
    print(f"{which}, gains {gains}: {error:.2e}, bound {bound:.2e}")
    assert error <= bound
    assert f"{kept} shared tokens" in result.report.summary.warnings[0]
    assert "1.000 on tokens held out" in result.report.summary.warnings[0]
    # No subspaces: none of the report's figures pretends that there were any.
    assert result.report.summary.subspaces_computed == 0
    assert {row.excess for row in result.report.modules} == {None}


def test_what_the_target_computes_changes_as_in_the_source(tmp_path: Path) -> None:
    model, how = made.tensors(), made.turn()
    goal = made.turned(model, how)
    source = made.save(
        tmp_path / "S", model, made.config(model), made.words(np.arange(made.TOKENS))
    )
    target = made.save(tmp_path / "T", goal, made.config(goal), made.words(how.tokens))
    adapter, _ = made.adapter(tmp_path / "A", model)
    result = transfer(
        adapter, source, target, tmp_path / "out", method="shared-vocab", controls=True
    )
    ids = torch.tensor([[3, 17, 99, 4, 61, 110, 8]])
    back = np.argsort(how.tokens)
    first, second = load_peft(source, adapter), load_peft(target, result.output)
    with torch.no_grad():
        own = first(ids).logits.numpy()
        other = second(torch.from_numpy(back)[ids]).logits.numpy()[..., back]
        with first.disable_adapter():
            base = first(ids).logits.numpy()
    change = np.linalg.norm(own - base)
    assert np.linalg.norm(other - own) <= 1e-4 * change
    assert set(result.controls) == {"padded-copy", "random", "shuffled"}
    for path in result.controls.values():
        load_peft(target, path)


@pytest.mark.parametrize("scale", [0.125, 8.0])
def test_a_stream_of_another_scale(tmp_path: Path, scale: float) -> None:
    model = made.tensors(gains=False)
    written = ("embed_tokens.weight", "o_proj.weight", "down_proj.weight")
    goal = {
        name: values * scale if name.endswith(written) else values for name, values in model.items()
    }
    source = made.save(tmp_path / "S", model, made.config(model), None)
    target = made.save(tmp_path / "T", goal, made.config(goal), None)
    adapter, deltas = made.adapter(tmp_path / "A", model)
    result = transfer(adapter, source, target, tmp_path / "out", method="shared-vocab")
    expected = {
        name: delta * (scale if name.endswith(("o_proj", "down_proj")) else 1.0)
        for name, delta in deltas.items()
    }
    # A power of two: nothing in the target is rounded, and float64 is exact enough.
    assert worst(deltas_of(result), expected) <= 2.0 * U
    assert any("same number" in warning for warning in result.report.summary.warnings)


def test_gains_of_one_plus_weight_and_scaled_embeddings(tmp_path: Path) -> None:
    # The same model as Llama and as Gemma store it.
    model = made.tensors()
    goal = {name: values - 1.0 if "norm" in name else values for name, values in model.items()}
    goal["model.embed_tokens.weight"] = model["model.embed_tokens.weight"] / made.WIDTH**0.5
    source = made.save(tmp_path / "S", model, made.config(model), None)
    target = made.save(tmp_path / "T", goal, made.config(goal, model_type="gemma"), None)
    adapter, deltas = made.adapter(tmp_path / "A", model)
    result = transfer(adapter, source, target, tmp_path / "out", method="shared-vocab")
    how = made.turn(stream=False, heads=False, neurons=False, tokens=False)
    # X_t is smaller by √d, and so is the cross-covariance; gains minus one cost u at most.
    bound = error_bound(model, goal, how, made.TOKENS) * made.WIDTH**0.5 + 2.0 * U
    assert worst(deltas_of(result), deltas) <= bound


def test_norms_after_modules_are_folded_into_their_outputs(tmp_path: Path) -> None:
    # Coordinates renumbered: every gain goes with its own, and no gain may be left in the result.
    rng = np.random.default_rng(4)
    model = made.tensors()
    for layer in range(made.LAYERS):
        for norm in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            gain = rng.uniform(0.5, 2.0, made.WIDTH)
            model[f"model.layers.{layer}.{norm}.weight"] = gain.astype(np.float32).astype(float)
    order = rng.permutation(made.WIDTH)

    def renumbered(name: str, values: Array) -> Array:
        writes = name.removesuffix(".weight").endswith(made.WRITERS)
        return values[order] if values.ndim == 1 or writes else values[:, order]

    goal = {name: renumbered(name, values) for name, values in model.items()}
    settings = {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}
    source = made.save(tmp_path / "S", model, made.config(model, **settings), None)
    target = made.save(tmp_path / "T", goal, made.config(goal, **settings), None)
    adapter, deltas = made.adapter(tmp_path / "A", model)
    result = transfer(adapter, source, target, tmp_path / "out", method="shared-vocab")
    expected = {name: renumbered(name, delta) for name, delta in deltas.items()}
    # Nothing in the target is rounded.
    assert worst(deltas_of(result), expected) <= 2.0 * U


def test_what_has_no_map_is_left_out_with_the_reason(tmp_path: Path) -> None:
    model = made.tensors()
    source = made.save(tmp_path / "S", model, made.config(model), None)
    goal = dict(model)
    goal["model.layers.1.input_layernorm.bias"] = np.zeros(made.WIDTH)
    target = made.save(tmp_path / "T", goal, made.config(goal), None)
    adapter, _ = made.adapter(tmp_path / "A", model)
    result = transfer(adapter, source, target, tmp_path / "out", method="shared-vocab")
    left = [row for row in result.report.modules if row.outcome == "left_out"]
    assert {row.layer for row in left} == {1}
    assert "self_attn.q_proj" in {row.name.split(".", 3)[3] for row in left}
    assert all("has a bias, so it is no RMSNorm" in row.why for row in left)


def test_a_filter_on_similarity_measures_it(tmp_path: Path) -> None:
    model = made.tensors()
    source = made.save(tmp_path / "S", model, made.config(model), None)
    adapter, _ = made.adapter(tmp_path / "A", model)
    result = transfer(
        adapter, source, source, tmp_path / "out", method="shared-vocab", min_similarity=0.5,
        subspace_rank=4,
    )  # fmt: skip
    assert result.report.summary.subspaces_computed > 0
    assert all((row.excess or 0.0) > 0.99 for row in result.report.modules)


@pytest.mark.parametrize(
    ("width", "inner", "heads"),
    [(48, 64, (6, 3, 8)), (24, 40, (4, 4, 8)), (32, 48, (4, 1, 8)), (40, 48, (8, 2, 16)),
     (24, 48, (2, 2, 4))],
)  # fmt: skip
def test_other_shapes_load_and_keep_no_more_than_there_is(
    tmp_path: Path, width: int, inner: int, heads: tuple[int, int, int]
) -> None:
    model = made.tensors(gains=False)
    goal = made.tensors(seed=2, width=width, inner=inner, heads=heads, gains=False)
    source = made.save(tmp_path / "S", model, made.config(model), None)
    target = made.save(tmp_path / "T", goal, made.config(goal, heads), None)
    adapter, _ = made.adapter(tmp_path / "A", model)
    result = transfer(adapter, source, target, tmp_path / "out", method="shared-vocab")
    load_peft(target, result.output)
    x = [m["model.embed_tokens.weight"] - m["model.embed_tokens.weight"].mean(axis=0)
         for m in (model, goal)]  # fmt: skip
    scale = np.linalg.norm(x[1]) / np.linalg.norm(x[0])
    for row in result.report.modules:
        most = scale if row.kind in {"o_proj", "down_proj"} else 1.0
        if row.kind in {"q_proj", "k_proj", "v_proj"}:
            # A head that is repeated counts as often.
            most *= max(1.0, row.shape[0] / row.source_shape[0]) ** 0.5 * 2.0**0.5
        if row.kind == "o_proj":
            most *= max(1.0, made.HEADS / heads[0]) ** 0.5
        assert row.retained is not None
        assert 0.0 < row.retained <= most * (1 + 1e-9), row.name
    told = {row.kind: row.why for row in result.report.modules}
    assert ("heads onto" in told["q_proj"]) == (heads[:2] != (made.HEADS, made.GROUPS))
    assert ("frequency" in told["q_proj"]) == (heads[2] != made.SIZE)
    assert ("neurons onto" in told["up_proj"]) == (inner != made.INNER)


def test_too_few_shared_tokens_are_refused(loragraft: CommandLine, tmp_path: Path) -> None:
    model = made.tensors()
    numbers = np.arange(made.TOKENS)
    source = made.save(tmp_path / "S", model, made.config(model), made.words(numbers))
    target = made.save(tmp_path / "T", model, made.config(model), made.words(numbers, 0.25))
    adapter, _ = made.adapter(tmp_path / "A", model)
    command = ("transfer", adapter, "--source", source, "--target", target, "-o",
               tmp_path / "out", "--method", "shared-vocab")  # fmt: skip
    answer = loragraft(*command)
    assert answer.code == 4
    assert "share 30 tokens, of 120 and 120" in answer.error
    assert "at least 33" in answer.error
    (target / "tokenizer.json").unlink()
    answer = loragraft(*command)
    assert answer.code == 4
    assert "tokenizer.json: is missing" in answer.error
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"S", "T", "A"}


def test_tokens_are_the_bytes_that_they_stand_for(tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text(json.dumps({
        "model": {"vocab": {"Ġthe": 0, "é": 1, "Ċ": 2, "Ã©": 3}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}]},
        "added_tokens": [{"id": 4, "content": "<end>"}],
    }), encoding="utf-8")  # fmt: skip
    pieces = tmp_path / "pieces.json"
    pieces.write_text(json.dumps({
        "model": {"vocab": [["▁the", -1.0], ["é", -2.0], ["<0x0A>", 0.0], ["<end>", 0.0]]},
    }), encoding="utf-8")  # fmt: skip
    own, other = read_tokens(words), read_tokens(pieces)
    assert own == {b" the": 0, b"\xe9": 1, b"\n": 2, "é".encode(): 3, b"<end>": 4}
    assert other == {b" the": 0, "é".encode(): 1, b"\n": 2, b"<end>": 3}


def test_assignments_are_the_best_there_are() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((1, 1), (3, 3), (4, 4), (5, 5), (3, 6), (2, 5)):
        for _ in range(20):
            scores = rng.standard_normal((rows, columns))
            best = max(
                sum(scores[row, column] for row, column in enumerate(order))
                for order in itertools.permutations(range(columns), rows)
            )
            found = assign(scores)
            assert len(set(found)) == rows
            assert scores[np.arange(rows), found].sum() == pytest.approx(best, rel=1e-12)


def test_assignment_agrees_with_scipy_and_the_greedy_one_finds_a_permutation() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((150, 180))
    rows, columns = optimize.linear_sum_assignment(scores, maximize=True)
    assert scores[np.arange(150), assign(scores)].sum() == pytest.approx(
        scores[rows, columns].sum(), rel=1e-12
    )
    order = rng.permutation(3000)
    points = rng.standard_normal((3000, 24))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found = greedy(best_of(points[order] @ points.T), 3000, 3000)
    assert (found == order).all()
    noise = greedy(best_of(scores), 150, 180)
    assert len(set(noise)) == 150


def best_of(scores: Array) -> Any:
    def best(rows: Array, columns: Array, count: int) -> tuple[Array, Array]:
        some = scores[np.ix_(rows, columns)]
        places = np.argsort(-some, axis=1)[:, :count]
        return np.take_along_axis(some, places, axis=1), places

    return best


def lines_of(parts: list[Array]) -> list[Any]:
    return [(part / np.linalg.norm(part, axis=1, keepdims=True)).__matmul__ for part in parts]


@pytest.mark.parametrize("neurons", [80, 1500])
def test_neurons_are_found_again_exactly_or_in_a_sketch(neurons: int) -> None:
    rng = np.random.default_rng(6)
    rotation = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    parts = [rng.standard_normal((neurons, 64)).astype(np.float32) for _ in range(3)]
    order = rng.permutation(neurons)
    kept = order[: neurons - 7]
    others = [(part[kept] @ rotation.T).astype(np.float32) for part in parts]
    fewer = match_neurons(lines_of(parts), lines_of(others), neuron_spaces(rotation, neurons))
    assert (fewer.sources == kept).all()
    assert fewer(np.eye(neurons)).shape == (neurons - 7, neurons)
    more = match_neurons(lines_of(others), lines_of(parts), neuron_spaces(rotation.T, neurons))
    assert (more.targets == kept).all()
    assert more.size == neurons


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
@pytest.mark.parametrize("smallest", [1.0, 2e-4, 5e-5, 1e-12, 0.0])
def test_the_polar_factor_is_that_of_the_svd(shape: tuple[int, int], smallest: float) -> None:
    rng = np.random.default_rng(3)
    least = min(shape)
    u = np.linalg.qr(rng.standard_normal((shape[0], least)))[0]
    v = np.linalg.qr(rng.standard_normal((shape[1], least)))[0]
    values = np.geomspace(1.0, smallest or 1.0, least)
    values[-1] = smallest
    found = polar((u * values) @ v.T)
    # Columns are orthonormal to their own rounding; the factor is defined as far as the smallest
    # singular values stand above the rounding of the whole, squared where MᵀM is formed.
    gram = found.T @ found if shape[0] >= shape[1] else found @ found.T
    assert np.abs(gram - np.eye(least)).max() <= 1e-13
    if smallest > 1e-5:
        assert np.abs(found - u @ v.T).max() <= 8 * least * 2.0**-53 / smallest**2


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (3, 3), (1, 4), (4, 3)])
def test_shared_assignments_leave_nobody_out(shape: tuple[int, int]) -> None:
    pairs = shared_assignment(np.random.default_rng(2).standard_normal(shape))
    assert {row for row, _ in pairs} == set(range(shape[0]))
    assert {column for _, column in pairs} == set(range(shape[1]))
    assert len(pairs) == max(shape)


def test_rotary_pairs_stay_together() -> None:
    assert (rotary(8, 8) == np.eye(8)).all()
    for own, other in ((8, 16), (16, 8), (12, 8)):
        turn = rotary(own, other)
        assert (turn.sum(axis=1) == 1).all()
        half = turn[: other // 2, : own // 2]
        assert (turn[other // 2 :, own // 2 :] == half).all()
        assert turn.sum() == 2 * half.sum()


def test_a_map_that_blows_an_update_up_is_called_one(tmp_path: Path) -> None:
    """Gains that are large on one side only, as Gemma's are: nothing like that is a match."""
    model = made.tensors()
    goal = {name: value / 64.0 if "layernorm" in name else value for name, value in model.items()}
    source = made.save(
        tmp_path / "S", model, made.config(model), made.words(np.arange(made.TOKENS))
    )
    target = made.save(tmp_path / "T", goal, made.config(goal), made.words(np.arange(made.TOKENS)))
    adapter, _ = made.adapter(tmp_path / "A", model)
    result = transfer(adapter, source, target, tmp_path / "out", method="shared-vocab")
    told = next(one for one in result.report.summary.warnings if "times as large" in one)
    assert "64 times" in told
    # Of seven modules in a block five read the stream through a norm.
    assert f"{5 * made.LAYERS} modules" in told
