"""distill from end to end: real transformers and PEFT on models small enough to read about."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import calibrated_models as cal
import turned_models as made
from command_line import CommandLine, loragraft
from extraction_checks import contents, load_peft
from loragraft import transfer
from loragraft.calibration.language_model import Place, open_model
from loragraft.calibration.texts import Text
from loragraft.errors import MismatchError, NothingToAdaptError, UsageError
from loragraft.transferring import TransferOptions, plan_transfer
from loragraft.transferring.distilling.answers import answered
from loragraft.transferring.distilling.reading import _held

if TYPE_CHECKING:
    from pathlib import Path

    Array = made.Array

__all__ = ["loragraft"]
LAST = f"model.layers.{made.LAYERS - 1}.mlp.down_proj"


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")


def bed(tmp_path: Path, *, target: dict[str, Array] | None = None) -> dict[str, Any]:
    """A source with an adapter, the same model or another as the target, and texts."""
    model = made.tensors()
    source = cal.save(tmp_path / "S", model)
    goal = cal.save(tmp_path / "T", model if target is None else target)
    adapter, _ = made.adapter(tmp_path / "A", model)
    texts = cal.write_texts(tmp_path / "texts.txt")
    return {"adapter": adapter, "source": source, "target": goal, "texts": texts}


def run(models: dict[str, Any], out: Path, **more: Any) -> Any:
    return transfer(
        models["adapter"], models["source"], models["target"], out, method="distill",
        calibration=models["texts"], **more,
    )  # fmt: skip


def command(models: dict[str, Any], out: Path) -> tuple[object, ...]:
    sides = (models["adapter"], "--source", models["source"], "--target", models["target"])
    return ("transfer", *sides, "-o", out, "--method", "distill")


def divergence(source: Any, target: Any) -> float:
    """Mean KL between next words as the source and as the target has them, over other texts."""
    ids = torch.from_numpy(np.random.default_rng(77).integers(1, made.TOKENS, (60, 12)))
    with torch.no_grad():
        log_q, log_p = (torch.log_softmax(one(ids).logits.double(), -1) for one in (source, target))
    return float((log_q.exp() * (log_q - log_p)).sum(-1).mean())


def test_a_model_learns_what_its_own_adapter_does(tmp_path: Path) -> None:
    models = bed(tmp_path)
    result = run(models, tmp_path / "out")
    tuned = load_peft(models["source"], models["adapter"])
    after = load_peft(models["target"], result.output)
    with after.disable_adapter():
        before = divergence(tuned, after)
    left = divergence(tuned, after)
    told = " ".join(result.report.summary.warnings)
    print(before, left, told)
    # Of an update of all layers the last projection can give a good part, never all of it.
    assert left < 0.7 * before
    rows = result.report.modules
    assert rows[0].name == LAST
    assert rows[0].method == "distill"
    assert "nats a token before" in rows[0].why
    assert rows[0].source == ""
    assert rows[0].near_no_op == ""
    assert result.report.summary.retained is None
    assert result.report.filters == ()
    assert "the whole adapter put into" in result.report.summary.verdict
    assert "240 calibration texts" in told
    assert "measured with the adapter as written" in told
    report = json.loads((result.output / "report.json").read_text())
    assert report["modules"][0]["effect"] > 0.0
    # Nothing is paired, and nothing says that it was.
    assert report["layers"] == {}
    assert report["summary"]["layer_map"] == "none"
    assert "distill" in (result.output / "README.md").read_text()


def test_figures_are_of_the_adapter_as_written_and_the_bytes_the_same_twice(tmp_path: Path) -> None:
    models = bed(tmp_path, target=made.tensors(seed=2))
    first = run(models, tmp_path / "out", controls=True)
    again = run(models, tmp_path / "again", controls=True)
    own, other = contents(first.output), contents(again.output)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert own[name] == other[name]
    assert set(first.controls) == {"random"}
    norms = []
    for path in (first.output, first.controls["random"]):
        model = load_peft(models["target"], path)
        layer = model.get_submodule(f"base_model.model.{LAST}")
        norms.append(float(layer.get_delta_weight("default").norm()))
    row = next(row for row in first.report.modules if row.name == LAST)
    assert norms == pytest.approx([row.delta_norm] * 2, rel=2e-3)


def test_norms_after_modules_and_other_vocabularies(tmp_path: Path) -> None:
    """Gemma 2: a norm follows what is written, logits are capped, embeddings scaled."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    models = bed(tmp_path)
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=made.TOKENS, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        final_logit_softcapping=20.0, query_pre_attn_scalar=8, sliding_window=32,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "G")
    cal.write_words(tmp_path / "G", made.words(np.random.default_rng(4).permutation(made.TOKENS)))
    models["target"] = tmp_path / "G"
    result = run(models, tmp_path / "out")
    load_peft(tmp_path / "G", result.output)
    row = result.report.modules[0]
    assert row.name == "model.layers.1.mlp.down_proj"
    before, after = (float(part.split()[0]) for part in row.why.split("wanted ")[1].split(", ")[:2])
    assert after < before


def test_the_next_module_is_kept_where_it_is_worth_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = bed(tmp_path)
    names = [
        f"model.layers.{made.LAYERS - 1}.{one}" for one in ("mlp.down_proj", "self_attn.o_proj")
    ]
    # As a part of what the first one leaves: any will do, or none.
    for worth, kept in ((1e9, names), (0.0, names[:1])):
        monkeypatch.setattr("loragraft.transferring.distilling.distill._WORTH", worth)
        result = run(models, tmp_path / f"out{worth:g}")
        assert [row.name for row in result.report.modules] == kept
        assert sum(row.share for row in result.report.modules) == pytest.approx(1.0)
        load_peft(models["target"], result.output)


def test_whole_prompts_are_held_out() -> None:
    prompts = [name for name in "abcdefghijklmno" for _ in range(2)]
    places = [Place(text, token) for text in range(len(prompts)) for token in (3, 4)]
    held = {
        prompts[place.text]
        for place, is_held in zip(places, _held(places, prompts), strict=True)
        if is_held
    }
    fitted = {
        prompts[place.text]
        for place, is_held in zip(places, _held(places, prompts), strict=True)
        if not is_held
    }
    assert len(held) == 3
    assert len(fitted) == 12
    assert not held & fitted
    # Of too few prompts places are held out.
    assert _held(places[:12], prompts).sum() == 2


def test_options_choose_the_module(tmp_path: Path) -> None:
    models = bed(tmp_path)
    chosen = run(models, tmp_path / "out", target_modules="attention", layers="0")
    assert [row.name for row in chosen.report.modules] == ["model.layers.0.self_attn.o_proj"]
    halved = run(models, tmp_path / "half", target_modules="attention", layers="0", scale=0.5)
    norms = [one.report.modules[0].delta_norm for one in (chosen, halved)]
    assert norms[1] == pytest.approx(norms[0] / 2, rel=2e-3)
    with pytest.raises(NothingToAdaptError, match="output projections"):
        run(models, tmp_path / "none", target_modules="q_proj")


def test_auto_with_texts_distills_what_cannot_be_copied(tmp_path: Path) -> None:
    same = bed(tmp_path)
    more = {"method": "auto", "calibration": same["texts"]}
    names = ("adapter", "source", "target")
    copied = transfer(*(same[name] for name in names), tmp_path / "copied", **more)
    assert {row.method for row in copied.report.modules} == {"copy"}
    strangers = [made.tensors(seed=2), made.tensors(seed=2, width=48, inner=72, heads=(6, 3, 8))]
    for number, goal in enumerate(strangers):
        heads = (6, 3, 8) if number else (made.HEADS, made.GROUPS, made.SIZE)
        target = cal.save(tmp_path / f"T{number}", goal, heads=heads)
        result = transfer(
            same["adapter"], same["source"], target, tmp_path / f"out{number}", **more
        )
        rows = result.report.modules
        assert {row.method for row in rows} == {"distill"}
        assert rows[0].why.startswith("auto: less than half of the adapter's squared norm")
        load_peft(target, result.output)
    with pytest.raises(UsageError, match="name the method"):
        transfer(*(same[name] for name in names), tmp_path / "no", **more, controls=True)


def test_the_source_answers_prompts(tmp_path: Path) -> None:
    models = bed(tmp_path)
    source = open_model(models["source"], models["adapter"], threads=1)
    given = [Text("w3 w4"), Text("w5 w6", "w7")]
    # A random model hardly ever ends: what has no end in time is left out, and told.
    texts, notes = answered(source, given, 0)
    assert texts[-1] == given[1]
    assert "wrote the answers to 1 prompt" in notes[0]
    with pytest.raises(MismatchError, match="ends none of its answers"):
        answered(_Told({}), [Text("w3 w4")], 0)  # type: ignore[arg-type]


def test_every_answer_is_taken_once_and_prompts_without_one_are_told() -> None:
    """Of each prompt the likeliest answer and those that are drawn, as long as they end."""
    told = {"a": ["1", "1"], "b": [None] * 2, "c": [None, "3"], "d": ["4", "5"]}
    given = [Text("a"), Text("x", "0"), Text("b"), Text("c"), Text("d"), Text("y", "")]
    texts, notes = answered(_Told(told), given, 5)  # type: ignore[arg-type]
    assert texts == [
        Text(*one) for one in [("a", "1"), ("x", "0"), ("c", "3"), ("d", "4"), ("d", "5")]
    ]
    assert "to 4 prompts, to each the likeliest and one that it drew" in notes[0]
    assert "2 texts left out" in notes[1]


class _Told:
    """A model that was told what to answer: first the likeliest, then what is drawn."""

    def __init__(self, answers: dict[str, list[str | None]]) -> None:
        self.answers = {prompt: iter(own) for prompt, own in answers.items()}
        self.seeds: list[int | None] = []

    def complete(self, prompts: list[str], most: int, *, seed: int | None) -> list[str | None]:
        assert most == 64
        # The likeliest once, every other time another draw.
        assert seed not in self.seeds
        assert (seed is None) == (not self.seeds)
        self.seeds.append(seed)
        return [next(self.answers.get(prompt, iter(())), None) for prompt in prompts]


def test_what_makes_no_sense_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    models = bed(tmp_path)
    with pytest.raises(UsageError, match="pairs no modules"):
        run(models, tmp_path / "out", min_similarity="auto")
    with pytest.raises(UsageError, match="give a factor"):
        run(models, tmp_path / "out", scale="match-norm")
    models["texts"] = None
    with pytest.raises(UsageError, match="--calibration FILE"):
        run(models, tmp_path / "out")


def test_hardly_any_shared_tokens(loragraft: CommandLine, tmp_path: Path) -> None:
    """The target cuts letters and digits, the source words: only the end is a token of both."""
    models = bed(tmp_path)
    cal.write_signs(models["target"])
    result = loragraft(*command(models, tmp_path / "out"), "--calibration", models["texts"])
    assert result.code == 4
    assert "begins with one of the 1 token that both vocabularies have" in result.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_what_would_be_tried(loragraft: CommandLine, tmp_path: Path) -> None:
    models = bed(tmp_path)
    ask = (*command(models, tmp_path / "out"), "--calibration", models["texts"], "--dry-run")
    result = loragraft(*ask)
    assert result.code == 0
    assert LAST in result.out
    assert "No modules are paired" in result.out
    data = loragraft(*ask, "--json").data
    assert data["modules"] == []
    assert data["layers"] == {}
    assert [one["name"].rpartition(".")[2] for one in data["tried"]] == ["down_proj", "o_proj"]
    result = loragraft(*ask, "--target-modules", "q_proj")
    assert result.code == 5
    assert "output projections" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["distill", "auto"])
def test_a_target_without_counterparts(method: str, tmp_path: Path) -> None:
    """What pairs no modules needs none alike: the adapter knows attention, the target none."""
    models = bed(tmp_path)
    adapter = {name: w for name, w in made.tensors().items() if "self_attn" in name}
    models["adapter"], _ = made.adapter(tmp_path / "attention", adapter)
    model = made.tensors(seed=2)
    target = cal.save(tmp_path / "bare", model)
    bare = {name: w.astype(np.float32) for name, w in model.items() if "self_attn" not in name}
    save_file(bare, target / "model.safetensors")
    sides = (models["adapter"], models["source"], target)
    options = TransferOptions(method=method, calibration=models["texts"])
    assert not plan_transfer(*sides, options).is_paired
    with pytest.raises(MismatchError, match="--method distill, which pairs none"):
        plan_transfer(*sides, TransferOptions(method="lora-x"))


def test_too_few_places_and_empty_files(loragraft: CommandLine, tmp_path: Path) -> None:
    models = bed(tmp_path)
    few = tmp_path / "few.txt"
    few.write_text("w1 w2 w3\n")
    ask = command(models, tmp_path / "out")
    result = loragraft(*ask, "--calibration", few)
    assert result.code == 4
    assert "at least 50 are needed" in result.err
    few.write_text("\n")
    result = loragraft(*ask, "--calibration", few)
    assert result.code == 3
    assert "has no text" in result.err
    assert not (tmp_path / "out").exists()
