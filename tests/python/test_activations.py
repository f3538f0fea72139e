"""activations against models that are the source in other coordinates, and against strangers."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import calibrated_models as cal
import turned_models as made
from command_line import CommandLine, loragraft
from extraction_checks import contents, factors, load_peft
from fused_models import parts, phi3_of, rows_of
from loragraft import transfer
from loragraft.calibration.collection import ModuleRows, collect
from loragraft.calibration.language_model import open_model
from loragraft.calibration.sample import take_sample
from loragraft.calibration.texts import read_texts

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.transferring import Transfer

    Array = made.Array

__all__ = ["loragraft"]
U = 2.0**-24
#: The least ridge that is tried, and the next one.
RIDGE = 1e-12


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")


def deltas_of(result: Transfer) -> dict[str, Array]:
    return {
        name: b.astype(np.float64) @ a.astype(np.float64)
        for name, (b, a) in factors(result.output).items()
    }


def watched(source: Path, target: Path, texts: Path) -> list[dict[str, ModuleRows]]:
    """What every layer of both models reads and writes at the paired places."""
    models = [open_model(side, threads=1) for side in (source, target)]
    sample = take_sample(models[0], models[1], read_texts(texts), 4096)
    found = []
    for side, path in ((sample.source, source), (sample.target, target)):
        shapes = {part.whole.name: part.whole.shape for part in parts(path).values()}
        shapes.pop("lm_head")
        rows = collect(side.model, side.texts, side.places, shapes)
        found.append({name: one for name, one in rows.items() if isinstance(one, ModuleRows)})
        assert found[-1].keys() == shapes.keys()
    return found


def sensitivity(origin: Array, goal: Array, exact: Array, rank: int) -> float:
    """How far float32 noise E in G = F Mᵀ + E takes a map that is made from F and G.

    Least squares moves by F⁺E, at most ‖E‖ / σ: k·eps·cond. To first order a polar factor moves by
    (X − Xᵀ)ᵢⱼ / (σᵢ² + σⱼ²) with X = Eᵀ F in the basis of F, which is at most twice as much. A
    ridge λ takes λ / σ² of the map away.
    """
    f, g = origin.astype(np.float64), goal.astype(np.float64)
    u, s, vt = np.linalg.svd(f, full_matrices=False)
    inverse = (vt[:rank].T / s[:rank]) @ u[:, :rank].T
    ridge = RIDGE * np.square(f).mean() * len(f) * np.linalg.norm(exact, 2)
    return float(2.0 * np.linalg.norm(inverse @ (g - f @ exact.T)) + ridge / s[rank - 1] ** 2)


def bounds(
    source: Path, target: Path, texts: Path, model: dict[str, Array], how: made.Turn
) -> dict[str, float]:
    """Most that a transfer may err, by module: of inputs and outputs, and of writing factors."""
    own, other = watched(source, target, texts)
    found = {}
    for name in own:
        tail = name.split(".", 3)[3]
        inner = np.eye(len(how.inner(tail)))[how.inner(tail)]
        if tail in made.WRITERS:
            left, right = how.rotation, inner.T
        else:
            left, right = inner, made.gain_of(model, name)[:, None] * how.rotation.T
        rank = min(left.shape[0], right.shape[0])
        outputs = sensitivity(own[name].outputs, other[name].outputs, left, rank)
        inputs = sensitivity(other[name].inputs, own[name].inputs, right, len(right))
        if tail.endswith(("gate_proj", "up_proj")):
            read = f"{name.rpartition('.')[0]}.down_proj"
            sizes = [np.sqrt(np.square(one[read].inputs).mean(axis=0)) for one in (own, other)]
            neurons = own[read].inputs / sizes[0], other[read].inputs / sizes[1]
            written = np.sqrt(np.square(own[name].outputs).mean(axis=0))
            spread = written.max() / written.min()
            outputs += spread * (sensitivity(*neurons, inner, len(inner)) + 2.0 * U)
        # Relative to the update: a gain may have made it small where the error is not.
        gain = np.linalg.cond(right)
        found[name] = gain * (outputs + inputs) + 2.0 * U
    return found


WAYS = {
    "the same": made.turn(stream=False, heads=False, neurons=False, tokens=False),
    "stream": made.turn(heads=False, neurons=False, tokens=False),
    "heads": made.turn(stream=False, neurons=False, tokens=False),
    "neurons": made.turn(stream=False, heads=False, tokens=False),
    "all": made.turn(),
}


@pytest.mark.parametrize("which", WAYS)
@pytest.mark.parametrize("gains", [False, True])
def test_the_same_model_in_other_coordinates(tmp_path: Path, which: str, gains: bool) -> None:
    how = WAYS[which]
    model = made.tensors(gains=gains)
    goal = made.turned(model, how)
    source = cal.save(tmp_path / "S", model)
    target = cal.save(tmp_path / "T", goal, how.tokens)
    adapter, deltas = made.adapter(tmp_path / "A", model)
    texts = cal.write_texts(tmp_path / "texts.txt")
    result = transfer(
        adapter, source, target, tmp_path / "out", method="activations", calibration=texts
    )
    load_peft(target, result.output)
    expected = {name: made.turned_matrix(name, delta, model, how) for name, delta in deltas.items()}
    found, most = deltas_of(result), bounds(source, target, texts, model, how)
    assert found.keys() == expected.keys()
    ratios = {}
    for name, delta in expected.items():
        error = float(np.linalg.norm(found[name] - delta) / np.linalg.norm(delta))
        ratios[name] = error / most[name]
        assert error <= most[name], (name, error, most[name])
    # The bound is one: no module here is so badly conditioned that anything would pass.
    assert max(most.values()) < 1e-3
    print(f"{which}, gains {gains}: bounds {min(most.values()):.1e} to {max(most.values()):.1e},"
          f" errors up to {max(ratios.values()):.3f} of them")  # fmt: skip
    told = result.report.summary.warnings
    assert "240 calibration texts, 2880 of 2880 places" in told[0]
    assert "576 of them held out" in told[0]
    assert "explain 1.000 of outputs and 1.000 of inputs" in told[1]
    assert "chance" not in told[1]
    assert result.report.summary.subspaces_computed == 0
    for row in result.report.modules:
        assert row.chance_retained == 1.0
        assert row.near_no_op is None or "chance" not in row.near_no_op


def test_what_the_target_computes_changes_as_in_the_source(tmp_path: Path) -> None:
    model, how = made.tensors(), made.turn()
    source = cal.save(tmp_path / "S", model)
    target = cal.save(tmp_path / "T", made.turned(model, how), how.tokens)
    adapter, _ = made.adapter(tmp_path / "A", model)
    texts = cal.write_texts(tmp_path / "texts.jsonl")
    result = transfer(
        adapter, source, target, tmp_path / "out", method="activations", calibration=texts,
        controls=True,
    )  # fmt: skip
    ids = torch.tensor([[3, 17, 99, 4, 61, 110, 8]])
    back = np.argsort(how.tokens)
    first, second = load_peft(source, adapter), load_peft(target, result.output)
    with torch.no_grad():
        own = first(ids).logits.numpy()
        other = second(torch.from_numpy(back)[ids]).logits.numpy()[..., back]
        with first.disable_adapter():
            base = first(ids).logits.numpy()
    assert np.linalg.norm(other - own) <= 1e-4 * np.linalg.norm(own - base)
    assert set(result.controls) == {"padded-copy", "random", "shuffled"}
    for path in result.controls.values():
        load_peft(target, path)
    # The shuffled control was looked at too, and counts in nothing that is told of the transfer.
    assert "explain 1.000 of outputs and 1.000 of inputs" in result.report.summary.warnings[1]


def strangers(tmp_path: Path, **more: Any) -> tuple[Path, Path, Path, Path]:
    model = made.tensors(gains=False)
    goal = made.tensors(seed=2, gains=False, **more)
    heads = more.get("heads", (made.HEADS, made.GROUPS, made.SIZE))
    source = cal.save(tmp_path / "S", model)
    target = cal.save(tmp_path / "T", goal, heads=heads)
    adapter, _ = made.adapter(tmp_path / "A", model)
    return adapter, source, target, cal.write_texts(tmp_path / "texts.txt", 300)


def test_models_that_share_nothing_share_no_more_than_the_tokens(tmp_path: Path) -> None:
    adapter, source, target, texts = strangers(tmp_path)
    result = transfer(
        adapter, source, target, tmp_path / "out", method="activations", calibration=texts
    )
    told = result.report.summary.warnings[1]
    assert "about what chance gives, so nothing here tells that the models correspond" in told
    words = told.split()
    out, into = float(words[words.index("explain") + 1]), float(words[words.index("and") + 1])
    alone = words[words.index("alone") + 2 : words.index("alone") + 5 : 2]
    print(told)
    # Two random models and one read the same tokens: that alone explains what is explained.
    for share, chance in zip((out, into), map(float, alone), strict=True):
        assert -0.1 < share < chance + 0.05
    doubtful = [row for row in result.report.modules if "no more than the tokens" in row.why
                or "explains nothing on texts held out" in row.why]  # fmt: skip
    assert len(doubtful) > len(result.report.modules) // 2


def test_other_widths_depths_heads_and_tokenizers(tmp_path: Path) -> None:
    model = made.tensors(width=64, inner=96, heads=(4, 2, 16), layers=4)
    goal = made.tensors(seed=2, width=96, inner=144, heads=(6, 3, 16), layers=6)
    source = cal.save(tmp_path / "S", model, heads=(4, 2, 16))
    target = made.save(tmp_path / "T", goal, made.config(goal, (6, 3, 16)), None)
    cal.write_signs(target)
    adapter, _ = made.adapter(tmp_path / "A", model)
    texts = cal.write_texts(tmp_path / "texts.jsonl")
    result = transfer(
        adapter, source, target, tmp_path / "out", method="activations", calibration=texts
    )
    load_peft(target, result.output)
    assert len(result.report.modules) == 42
    assert {row.source_layer for row in result.report.modules} == {0, 1, 2, 3}
    # Words of two or three digits end where a sign ends; nothing else ends together.
    assert "2880 of 2880 places" in result.report.summary.warnings[0]
    again = transfer(
        adapter, source, target, tmp_path / "again", method="activations", calibration=texts
    )
    own, other = contents(result.output), contents(again.output)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert own[name] == other[name]


def test_a_fused_target_takes_what_its_split_self_takes(tmp_path: Path) -> None:
    model, how = made.tensors(), made.turn()
    source = cal.save(tmp_path / "S", model)
    goal = made.turned(model, how)
    llama = made.save(tmp_path / "L", goal, made.config(goal), None)
    adapter, deltas = made.adapter(tmp_path / "A", model)
    config = made.config(goal, max_position_embeddings=64, rms_norm_eps=1e-6, bos_token_id=None,
                         eos_token_id=0, pad_token_id=0)  # fmt: skip
    (llama / "config.json").write_text(json.dumps(config))
    target = phi3_of(llama, tmp_path / "T")
    cal.write_words(target, made.words(how.tokens))
    texts = cal.write_texts(tmp_path / "texts.txt")
    result = transfer(
        adapter, source, target, tmp_path / "out", method="activations", calibration=texts
    )
    load_peft(target, result.output)
    found = deltas_of(result)
    for name, part in parts(target).items():
        if part.whole.name in found:
            expected = made.turned_matrix(name, deltas[name], model, how)
            error = np.linalg.norm(found[part.whole.name][rows_of(part)] - expected)
            assert error <= 1e-4 * np.linalg.norm(expected), name
    assert {row.part for row in result.report.modules if row.part} == {
        "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}  # fmt: skip


def test_the_size_of_neurons_is_not_taken_for_that_of_what_writes_them(tmp_path: Path) -> None:
    # Neurons that are larger by 2 to 2000, and read by as much less: the same model.
    rng = np.random.default_rng(8)
    model = made.tensors(gains=False)
    size = 2.0 ** rng.integers(1, 12, made.INNER)
    goal = dict(model)
    for layer in range(made.LAYERS):
        stem = f"model.layers.{layer}.mlp"
        goal[f"{stem}.up_proj.weight"] = model[f"{stem}.up_proj.weight"] * size[:, None]
        goal[f"{stem}.down_proj.weight"] = model[f"{stem}.down_proj.weight"] / size
    source, target = cal.save(tmp_path / "S", model), cal.save(tmp_path / "T", goal)
    adapter, deltas = made.adapter(tmp_path / "A", model)
    texts = cal.write_texts(tmp_path / "texts.txt")
    result = transfer(
        adapter, source, target, tmp_path / "out", method="activations", calibration=texts,
        target_modules="gate_proj,up_proj",
    )  # fmt: skip
    for name, delta in deltas_of(result).items():
        exact = deltas[name] * (size[:, None] if name.endswith("up_proj") else 1.0)
        assert np.linalg.norm(delta - exact) <= 1e-4 * np.linalg.norm(exact), name


def test_a_mean_of_the_outputs_is_not_made_of_what_hardly_varies(tmp_path: Path) -> None:
    # One output of the source is a small constant, and those of the target have a bias.
    adapter, source, target, texts = strangers(tmp_path)
    tensors = made.files.read_checkpoint(source)
    value, bias = "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.v_proj.bias"
    tensors[value][3] = 0.0
    _with_bias(source, tensors, {bias: np.eye(len(tensors[value]), dtype="f4")[3] * 1e-3})
    tensors = made.files.read_checkpoint(target)
    _with_bias(target, tensors, {bias: np.full(len(tensors[value]), 3.0, "f4")})
    result = transfer(
        adapter, source, target, tmp_path / "out", method="activations", calibration=texts,
        target_modules="v_proj", layers="0",
    )  # fmt: skip
    (row,) = [row for row in result.report.modules if row.rank]
    assert row.retained is not None
    assert row.retained < 2.0


def _with_bias(path: Path, tensors: dict[str, Array], biases: dict[str, Array]) -> None:
    """Give all four projections of attention a bias, zero but where one is named."""
    more = {
        name.replace(".weight", ".bias"): np.zeros(len(values), "f4")
        for name, values in tensors.items()
        if "self_attn" in name
    }
    stored = {**tensors, **more, **biases}
    made.save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"attention_bias": True}))


def test_rows_that_do_not_fit_into_memory_are_taken_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, source, target, texts = strangers(tmp_path)
    where = {"method": "activations", "calibration": texts, "controls": True}
    whole = transfer(adapter, source, target, tmp_path / "whole", **where)
    # Room for one pair at a time.
    monkeypatch.setattr("loragraft.transferring.methods.watched_pairs.PLACES_BYTES", 1)
    parted = transfer(adapter, source, target, tmp_path / "parted", **where)
    for name, path in {"": whole.output, **whole.controls}.items():
        other = parted.controls[name] if name else parted.output
        own = (path / "adapter_model.safetensors").read_bytes()
        assert (other / "adapter_model.safetensors").read_bytes() == own


def test_a_module_that_is_not_run_is_left_out_with_the_reason(tmp_path: Path) -> None:
    adapter, source, target, texts = strangers(tmp_path)
    model = made.tensors(gains=False)
    head = {"lm_head": (np.ones((made.TOKENS, 2), "f4"), np.ones((2, made.WIDTH), "f4"))}
    q = model["model.layers.0.self_attn.q_proj.weight"]
    head["model.layers.0.self_attn.q_proj"] = (q[:, :2].astype("f4"), q[:2].astype("f4"))
    adapter = made.files.write_adapter(tmp_path / "B", head)
    result = transfer(
        adapter, source, target, tmp_path / "out", method="activations", calibration=texts,
        target_modules="lm_head,q_proj",
    )  # fmt: skip
    rows = {row.kind: row for row in result.report.modules}
    assert rows["lm_head"].outcome == "left_out"
    assert "it is not run on every token of a text" in rows["lm_head"].why
    assert rows["q_proj"].outcome == "transferred"
    load_peft(target, result.output)


def command(adapter: Path, source: Path, target: Path, *more: object) -> tuple[object, ...]:
    return ("transfer", adapter, "--source", source, "--target", target,
            "-o", adapter.parent / "out", *more)  # fmt: skip


def test_what_cannot_be_used_is_refused(loragraft: CommandLine, tmp_path: Path) -> None:
    adapter, source, target, texts = strangers(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    bad = {
        "empty.txt": (b"\n \n", 3, "has no text"),
        "latin.txt": ("grün".encode("latin-1"), 3, "not UTF-8 at byte 2"),
        "line.jsonl": (b'{"prompt": "w1"}\n{"prompt"\n', 3, "line.jsonl, line 2: not valid JSON"),
        "number.jsonl": (b'{"prompt": 5}', 3, "line 1: got 5 for a text"),
        "neither.jsonl": (b'{"question": "w1"}', 3, "has neither a prompt nor a text"),
        "half.jsonl": (b'{"text": "\\ud800"}', 3, "holds half a character"),
        "few.txt": (b"w1 w2 w3\n", 4, "at 3 places of 1 calibration text"),
    }
    run = ("--method", "activations", "--calibration")
    for name, (data, code, words) in bad.items():
        path = tmp_path / "bad" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        answer = loragraft(*command(adapter, source, target, *run, path))
        assert answer.code == code, answer.err
        assert words in answer.error
    answer = loragraft(*command(adapter, source, target, *run, tmp_path / "none"))
    assert answer.code == 3
    answer = loragraft(*command(adapter, source, target, "--method", "activations"))
    assert (answer.code, "--calibration FILE" in answer.error) == (2, True)
    lone = ("--method", "lora-x", "--calibration", texts)
    answer = loragraft(*command(adapter, source, target, *lone))
    assert (answer.code, "--method lora-x runs no model" in answer.error) == (2, True)
    assert {path.name for path in tmp_path.iterdir()} == before | {"bad"}


def test_texts_whose_tokens_never_end_together_are_refused(
    loragraft: CommandLine, tmp_path: Path
) -> None:
    adapter, source, target, _ = strangers(tmp_path)
    cal.write_signs(target)
    # A word that is all one token for one side is cut for the other, and its end is cut off.
    (tmp_path / "texts.txt").write_text("w1" + "2" * 5000 + "\n")
    answer = loragraft(*command(adapter, source, target, "--method", "activations",
                                "--calibration", tmp_path / "texts.txt"))  # fmt: skip
    assert answer.code == 4
    assert "at 0 places of 1 calibration text" in answer.error
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_run_are_refused(loragraft: CommandLine, tmp_path: Path) -> None:
    adapter, source, target, texts = strangers(tmp_path)
    run = ("--method", "activations", "--calibration", texts)
    config = (target / "config.json").read_text()
    (target / "config.json").write_text(config.replace('"llama"', '"lama"'))
    answer = loragraft(*command(adapter, source, target, *run))
    assert (answer.code, "transformers cannot load it" in answer.error) == (3, True)
    (target / "config.json").write_text(config)
    (target / "tokenizer.json").unlink()
    answer = loragraft(*command(adapter, source, target, *run))
    assert answer.code == 3
    cal.write_words(target, made.words(np.arange(made.TOKENS)))
    (target / "model.safetensors").rename(target / "other.safetensors")
    answer = loragraft(*command(adapter, source, target, *run))
    assert (answer.code, "nor has an index" in answer.error) == (3, True)
    (target / "other.safetensors").rename(target / "model.safetensors")
    tensors = made.files.read_checkpoint(target)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    made.save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    answer = loragraft(*command(adapter, source, target, *run))
    assert (answer.code, "has no tensor" in answer.error) == (3, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["torch", "transformers", "peft"])
def test_what_runs_models_is_asked_for_by_name(
    loragraft: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    adapter, source, target, texts = strangers(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    run = ("--method", "activations", "--calibration", texts)
    for more in ((), ("--dry-run",)):
        answer = loragraft(*command(adapter, source, target, *run, *more))
        assert answer.code == 8
        assert f"needs {missing}: pip install 'loragraft[eval]'" in answer.error
    assert not (tmp_path / "out").exists()
