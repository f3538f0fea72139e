"""Texts, pairs of tokens, watched models and the maps between what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import calibrated_models as cal
import turned_models as made
from loragraft.calibration.chance import TokenChance
from loragraft.calibration.collection import collect
from loragraft.calibration.language_model import Place, Tokens, open_model
from loragraft.calibration.pairing import paired_places
from loragraft.calibration.regression import every_fifth, explained, fit
from loragraft.calibration.ridge import Ridge, RidgePath, span
from loragraft.calibration.sample import take_sample
from loragraft.calibration.texts import Text, read_texts
from loragraft.errors import MismatchError, NonFiniteError
from loragraft.transferring.maps import Completed

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.calibration.language_model import LanguageModel


def test_texts_come_as_lines_or_objects(tmp_path: Path) -> None:
    lines = tmp_path / "a.txt"
    lines.write_bytes("one two\r\n\nünf {}\u2028six".encode())
    assert read_texts(lines) == (Text("", "one two"), Text("", "ünf {}\u2028six"))
    objects = tmp_path / "a.JSONL"
    objects.write_bytes(
        b'\xef\xbb\xbf{"prompt": "Q ", "completion": "A", "id": 3}\n\n{"prompt": "Q"}\n'
        b'{"text": "T", "prompt": "no"}\n{"prompt": "P", "answer": null, "response": "R"}'
    )
    assert read_texts(objects) == (
        Text("Q ", "A"), Text("Q"), Text("", "T"), Text("P", "R"))  # fmt: skip
    assert [text.whole for text in read_texts(objects)] == ["Q A", "Q", "T", "PR"]


def test_tokens_are_paired_where_they_end() -> None:
    # "Straße 7": one side has a token before the text, the other two for the bytes of ß.
    own = Tokens((9, 1, 2, 3), (0, 4, 6, 8))
    other = Tokens((1, 2, 3, 4, 5, 6), (2, 4, 5, 5, 6, 8))
    pairs = paired_places([own], [other])
    assert [(a.token, b.token) for a, b in zip(*pairs, strict=True)] == [(1, 1), (2, 4), (3, 5)]
    assert paired_places([other], [other]).source == tuple(Place(0, n) for n in (0, 1, 3, 4, 5))
    assert [place.token for place in paired_places([own], [other], [6]).source] == [2, 3]
    assert paired_places([own], [Tokens((1,), (5,))]).source == ()
    kept = paired_places([own] * 5, [own] * 5).evenly(4)
    assert [(place.text, place.token) for place in kept.source] == [(0, 1), (1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("places", [200, 20])
def test_ridge_is_the_formula_written_out(places: int) -> None:
    rng = np.random.default_rng(0)
    f, g = rng.standard_normal((places, 30)), rng.standard_normal((places, 12))
    found = Ridge.of(f, g, 1e-3)
    ridge = 1e-3 * np.square(f).mean() * places
    dense = g.T @ f @ np.linalg.inv(f.T @ f + ridge * np.eye(30))
    assert np.allclose(found.forward(np.eye(30)), dense, rtol=0, atol=1e-12 * np.abs(dense).max())
    assert np.allclose(found.backward(np.eye(12)), dense.T, rtol=0, atol=1e-12)
    part, error = RidgePath(f[5:], f[:5]).best(g[5:], g[:5])
    again = Ridge.of(f[5:], g[5:], part)
    direct = float(np.square(g[:5].T - again.forward(f[:5].T)).sum())
    assert error == pytest.approx(direct, rel=1e-9)
    for other in (part * 10, part / 10):
        tried = float(np.square(g[:5].T - Ridge.of(f[5:], g[5:], other).forward(f[:5].T)).sum())
        assert tried >= error / (1.01 + 1e-9)


def test_directions_in_which_rows_hardly_vary_are_not_amplified() -> None:
    rng = np.random.default_rng(6)
    f, g = rng.standard_normal((2000, 20)), rng.standard_normal((2000, 20))
    f[:, 0] *= 1e-4
    g[:, 1:] += f[:, 1:]
    found = fit(f, g)
    assert found.explained > 0.4
    # Least squares takes noise of 1 / √2000 for what the first coordinate does, and blows it up.
    plain = np.linalg.lstsq(f, g, rcond=None)[0]
    assert np.linalg.norm(plain[0]) > 100.0
    assert np.linalg.norm(found.map.forward(np.eye(20)[:, :1])) < 2.0


def test_a_turn_is_found_by_procrustes_and_a_stretch_by_ridge() -> None:
    rng = np.random.default_rng(1)
    f = rng.standard_normal((300, 16))
    turn = np.linalg.qr(rng.standard_normal((24, 16)))[0]
    stretch = np.diag(rng.uniform(0.5, 2.0, 16))
    for exact, names in (
        (3.0 * turn, {"procrustes"}),
        (turn @ stretch, {"ridge", "procrustes and ridge"}),
    ):
        found = fit(f.astype(np.float32), (f @ exact.T).astype(np.float32))
        assert found.name in names
        assert found.explained == pytest.approx(1.0, abs=1e-9)
        assert np.abs(found.map.forward(np.eye(16)) - exact).max() < 1e-6
        assert np.abs(found.map.backward(np.eye(24)) - exact.T).max() < 1e-6
    # Back into the smaller space, the best semi-orthogonal map is the transpose.
    back = fit(f @ turn.T, f)
    assert back.name == "procrustes"
    assert np.abs(back.map.forward(np.eye(24)) - turn.T).max() < 1e-12


def test_a_relative_is_better_told_by_a_ridge_around_the_turn_than_around_nothing() -> None:
    rng = np.random.default_rng(5)
    turn = np.linalg.qr(rng.standard_normal((80, 80)))[0]
    exact = turn @ (np.eye(80) + 0.02 * rng.standard_normal((80, 80)))
    f = rng.standard_normal((150, 80)) * np.logspace(0, -2, 80)
    g = f @ exact.T + 1e-3 * rng.standard_normal((150, 80))
    found = fit(f, g)
    assert found.name == "procrustes and ridge"
    held = every_fifth(150)
    part, error = RidgePath(f[~held], f[held]).best(g[~held], g[held])
    assert found.explained > explained(error, g, held)
    off = np.linalg.norm(found.map.forward(np.eye(80)) - exact)
    assert off < np.linalg.norm(Ridge.of(f, g, part).forward(np.eye(80)) - exact)
    dense = found.map.forward(np.eye(80))
    assert np.allclose(found.map.backward(np.eye(80)), dense.T, atol=1e-9)


def test_what_is_unrelated_is_not_explained_and_constants_count_for_nothing() -> None:
    rng = np.random.default_rng(2)
    f, g = rng.standard_normal((500, 8)), rng.standard_normal((500, 9))
    assert abs(fit(f, g).explained) < 0.05
    # Means alone make most of a squared norm; they are no reason to believe in a map.
    f[:, 0], g[:, 0] = 100.0, 100.0
    found = fit(f, g)
    assert abs(found.explained) < 0.05
    assert fit(np.zeros((20, 3)), np.zeros((20, 4))).explained == 0.0
    zero = fit(np.zeros((20, 3)), rng.standard_normal((20, 4)))
    assert zero.explained <= 0.0
    assert not zero.map.forward(np.eye(3)).any()
    few = fit(rng.standard_normal((5, 30)), rng.standard_normal((5, 30)))
    assert np.isfinite(few.map.forward(np.eye(30))).all()


def test_tokens_alone_explain_what_depends_on_them_alone() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 10, 1000).tolist()
    values = rng.standard_normal((10, 6))[tokens]
    chance = TokenChance(tokens, every_fifth(1000), 0)
    assert chance.explained(16, values) > 0.999
    assert abs(chance.explained(16, rng.standard_normal((1000, 6)))) < 0.05


@pytest.mark.parametrize("places", [100, 12])
def test_a_completed_map_is_one_map_inside_and_another_outside(places: int) -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((places, 6)) @ rng.standard_normal((6, 20))
    basis = span(rows.astype(np.float32).astype(np.float64), 20)
    assert basis.shape == (20, 6)
    assert np.allclose(basis.T @ basis, np.eye(6), atol=1e-9)
    found = Completed(basis, lambda columns: 2.0 * columns, lambda columns: -columns)
    assert np.allclose(found(rows.T), 2.0 * rows.T, atol=1e-5)
    outside = np.eye(20) - basis @ basis.T
    assert np.allclose(found(outside), -outside, atol=1e-9)


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return open_model(cal.save(tmp_path / "M", made.tensors()), threads=1)


def test_a_model_is_seen_alike_in_any_batch_and_as_torch_computes_it(
    model: LanguageModel, tmp_path: Path
) -> None:
    texts = [model.tokens(text.whole) for text in read_texts(cal.write_texts(tmp_path / "t.txt"))]
    texts += [model.tokens("w1 w2 w3"), model.tokens("")]
    places = [Place(240, 2), Place(3, 5), Place(3, 0), Place(7, 11)]
    shapes = {"model.layers.1.mlp.down_proj": (made.WIDTH, made.INNER),
              "model.layers.0.self_attn.k_proj": (made.GROUPS * made.SIZE, made.WIDTH)}  # fmt: skip
    found = collect(model, texts, places, shapes)
    for number, place in enumerate(places):
        for name in shapes:
            rows, seen = found[name], as_computed(model, name, texts[place.text])
            assert not isinstance(rows, str)
            for own, other in zip(rows, seen, strict=True):
                assert np.allclose(own[number], other[0, place.token].numpy(), atol=1e-5)


def as_computed(model: LanguageModel, name: str, text: Tokens) -> list[torch.Tensor]:
    """What a module reads and writes of a text alone."""
    seen: list[torch.Tensor] = []
    handle = model.module(name).register_forward_hook(
        lambda _, inputs, output: seen.extend((inputs[0], output))
    )
    with torch.no_grad():
        model.inner(input_ids=torch.tensor([text.ids]))
    handle.remove()
    return seen


def test_modules_without_a_row_for_every_token_are_told(model: LanguageModel) -> None:
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :1]

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    model.inner.model.norm.part, model.inner.model.norm.flat = Half(), Flat()

    def norm(self: Any, _: Any, output: torch.Tensor) -> None:
        self.part(output)
        self.flat(output)

    model.inner.model.norm.register_forward_hook(norm)
    texts = [model.tokens("w1 w2 w3"), model.tokens("w5 w6")]
    places = [Place(0, 1), Place(0, 2), Place(1, 0)]
    size = (made.WIDTH, made.WIDTH)
    names = ("part", "flat.inner", "flat")
    found = collect(
        model, texts, places,
        {**{f"model.norm.{name}": size for name in names}, "lm_head": (made.TOKENS, made.WIDTH),
         "model.none": size, "model.layers.0.mlp.up_proj": size},
    )  # fmt: skip
    told = {name: rows for name, rows in found.items() if isinstance(rows, str)}
    assert set(told) == {"model.norm.part", "lm_head", "model.none", "model.layers.0.mlp.up_proj"}
    assert "without a module model.none" in told["model.none"]
    assert "other widths than its tensor" in told["model.layers.0.mlp.up_proj"]
    assert told["lm_head"] == told["model.norm.part"] == "it is not run on every token of a text"
    flat, whole = found["model.norm.flat.inner"], found["model.norm.flat"]
    assert not isinstance(flat, str)
    assert not isinstance(whole, str)
    assert (flat.outputs == whole.outputs).all()
    with pytest.raises(MismatchError, match="without a module"):
        model.run(texts, places, {"model.none": lambda *_: None})


def test_what_is_not_finite_is_refused(tmp_path: Path) -> None:
    tensors = made.tensors()
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = np.inf
    model = open_model(cal.save(tmp_path / "M", tensors))
    shape = {"model.layers.0.mlp.up_proj": (made.INNER, made.WIDTH)}
    with pytest.raises(NonFiniteError, match=r"model\.layers\.0\.mlp\.up_proj: NaN or Inf"):
        collect(model, [model.tokens("w1 w2")], [Place(0, 1)], shape)


def test_whole_texts_are_held_out_where_there_are_enough(model: LanguageModel) -> None:
    texts = [Text("", f"w{number} w2 w3 w4") for number in range(1, 21)]
    sample = take_sample(model, model, texts, 1000)
    held = {place.text for place, out in zip(sample.source.places, sample.held, strict=True) if out}
    assert held == {4, 9, 14, 19}
    assert sample.held.sum() == 16
    few = take_sample(model, model, texts[:3], 1000)
    assert few.held.sum() == 2
    assert sample.target.tokens[:4] == [1, 2, 3, 4]


def test_texts_longer_than_the_model_are_cut_off(tmp_path: Path) -> None:
    tensors = made.tensors()
    made.save(tmp_path / "M", tensors, made.config(tensors, max_position_embeddings=16), None)
    cal.write_words(tmp_path / "M", made.words(np.arange(made.TOKENS)))
    model = open_model(tmp_path / "M")
    assert len(model.tokens("w5 " * 100).ids) == 16
    assert model.tokens("w5 w6").ends == (2, 5)


def test_answers_are_the_greedy_ones(model: LanguageModel) -> None:
    prompts = ["w1 w2 w3", "w4", *(f"w{n} w{n + 1}" for n in range(5, 60))]
    answers = model.complete(prompts, 8)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, new = list(model.tokens(prompt).ids), []
        with torch.no_grad():
            while len(new) < 8 and model.end not in new:
                new.append(
                    int(model.inner(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax())
                )
        ended = model.end in new and len(new) > 1
        assert answer == (model.tokenizer.decode(new[:-1]) if ended else None)
    assert any(answer is None for answer in answers)


def test_drawn_answers_have_the_probabilities_of_the_model(model: LanguageModel) -> None:
    line = model.tokens("w1 w2 w3").ids
    count = 4000
    with torch.no_grad():
        p = torch.softmax(model.inner(input_ids=torch.tensor([line])).logits[0, -1].double(), -1)
    drawn = [model._generated([line] * count, 1, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    seen = np.bincount([one[0] for one in drawn[0]], minlength=len(p))
    expected = count * p.numpy()
    # Pearson's statistic: as many as there are tokens, less one, give or take its spread.
    statistic = float((np.square(seen - expected) / expected).sum())
    freedom = len(p) - 1
    assert abs(statistic - freedom) < 6 * (2 * freedom) ** 0.5
    # torch's own random numbers go on as if nothing had been drawn.
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    model.complete(["w1"], 4, seed=3)
    assert torch.rand(1) == first
