"""Transfers between models that store one weight where others store several, in real PEFT."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import fused_models as fused
import lora_files as files
import tiny_models
import transfer_files as made
import turned_models as turned
from extraction_checks import cast_bound, distance, factors, load_base, load_peft, logits, scalings
from loragraft import transfer
from loragraft.subspaces.cache import SubspaceCache
from loragraft.subspaces.finder import SubspaceFinder
from loragraft.subspaces.rank import SubspaceRank
from loragraft.tensor_reader import TensorReader
from loragraft.transferring.report import Fate

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.transferring import Transfer

    Array = made.Array

RANK = 4
PAIRWISE = ("copy", "lora-x", "cross-lora", "prolora")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return made.llama(tmp_path / "split", seed=1, depth=2)


@pytest.fixture
def phi3(split: Path, tmp_path: Path) -> Path:
    return fused.phi3_of(split, tmp_path / "phi3")


def fused_adapter(directory: Path, checkpoint: Path, *, size: float = 0.05, **config: Any) -> Path:
    tails = (*fused.FUSED, "self_attn.o_proj", "mlp.down_proj")
    return made.adapter(directory, checkpoint, tails=tails, size=size, **config)


def ranks(result: Transfer) -> dict[str, int]:
    return {row.kind: row.rank for row in result.report.modules}


def same_tensors(one: Path, other: Path) -> bool:
    left, right = files.read_checkpoint(one), files.read_checkpoint(other)
    return left.keys() == right.keys() and all(
        left[name].tobytes() == right[name].tobytes() for name in left
    )


@pytest.mark.parametrize("method", ["copy", "auto"])
def test_split_onto_fused_computes_the_same(
    split: Path, phi3: Path, tmp_path: Path, method: str
) -> None:
    assert torch.equal(logits(load_base(split)), logits(load_base(phi3)))
    adapter = made.adapter(tmp_path / "A", split, alpha=8.0)
    result = transfer(adapter, split, phi3, tmp_path / "out", method=method, subspace_rank=16)
    model = load_peft(phi3, result.output)
    assert set(scalings(model).values()) == {2.0}
    own, found = logits(load_peft(split, adapter)), logits(model)
    change = distance(own, logits(load_base(split)))
    assert distance(found, own) <= 1e-5 * change
    assert ranks(result) == {"qkv_proj": 12, "gate_up_proj": 8, "o_proj": 4, "down_proj": 4}
    assert result.report.summary.norm_share == pytest.approx(1.0, rel=1e-12)
    assert result.report.summary.counts == {"copied": 8, "transferred": 0, "left_out": 0}
    before, after = factors(adapter), factors(result.output)
    for name, part in fused.parts(phi3).items():
        if part.whole.name in after:
            # Every number of the source is there, and nothing else in these rows but zeros.
            b, a = after[part.whole.name]
            rows = b[fused.rows_of(part)]
            used = rows.any(axis=0)
            assert np.array_equal(rows[:, used], before[name][0])
            assert np.array_equal(a[used], before[name][1])


def test_fused_onto_split_gives_every_part_its_rows(
    split: Path, phi3: Path, tmp_path: Path
) -> None:
    adapter = fused_adapter(tmp_path / "A", phi3, alpha=8.0, use_rslora=True)
    result = transfer(adapter, phi3, split, tmp_path / "out", method="copy")
    own, found = logits(load_peft(phi3, adapter)), logits(load_peft(split, result.output))
    assert distance(found, own) <= 1e-5 * distance(own, logits(load_base(phi3)))
    assert set(ranks(result).values()) == {RANK}
    before, after = factors(adapter), factors(result.output)
    for name, part in fused.parts(phi3).items():
        if part.whole.name in before:
            assert np.array_equal(after[name][1], before[part.whole.name][1])
            assert np.array_equal(after[name][0], before[part.whole.name][0][fused.rows_of(part)])
    row = made.rows(result)["model.layers.1.self_attn.k_proj"]
    assert (row.part, row.source_part) == ("", "k_proj")
    assert row.source == "model.layers.1.self_attn.qkv_proj"
    assert "k_proj rows of the source's qkv_proj" in row.why
    assert result.report.summary.norm_share == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_there_and_back_is_bit_for_bit(split: Path, phi3: Path, tmp_path: Path, dtype: str) -> None:
    adapters = {
        split: made.adapter(tmp_path / "A", split),
        phi3: fused_adapter(tmp_path / "B", phi3),
    }
    for path in adapters.values():
        narrow = {
            name: values.astype(files.NUMPY_DTYPES[dtype])
            for name, values in files.read_checkpoint(path).items()
        }
        files.save_file(narrow, path / "adapter_model.safetensors", metadata={"format": "pt"})
    for own, other in ((split, phi3), (phi3, split)):
        there = transfer(adapters[own], own, other, tmp_path / f"to-{other.name}", method="copy")
        back = transfer(there.output, other, own, tmp_path / f"at-{own.name}", method="copy")
        # The parts of a fused module share lora_A, so it has its own rank again.
        assert same_tensors(back.output, adapters[own])
        assert set(ranks(back).values()) == {RANK}
        assert not any("larger rank" in text for text in back.report.summary.warnings)


def test_the_rank_is_the_least_that_holds_the_parts(
    split: Path, phi3: Path, tmp_path: Path
) -> None:
    # The rows of lora_A of k are sums of those of q: q, k and v span eight directions, not twelve.
    rng = np.random.default_rng(0)
    pairs = factors(made.adapter(tmp_path / "A", split))
    for name in [name for name in pairs if name.endswith("q_proj")]:
        whole = np.round(16.0 * pairs[name][1])
        mix = rng.integers(-2, 3, (RANK, RANK)).astype(np.float32)
        keys = name.replace("q_proj", "k_proj")
        pairs[name], pairs[keys] = (pairs[name][0], whole), (pairs[keys][0], mix @ whole)
    adapter = files.write_adapter(tmp_path / "B", pairs)
    result = transfer(adapter, split, phi3, tmp_path / "out", method="copy")
    assert ranks(result)["qkv_proj"] == 8
    assert any("the least that holds its parts" in row.why for row in result.report.modules)
    for name, delta in fused.deltas(phi3, factors(result.output)).items():
        expected = made.product(pairs[name])
        assert np.linalg.norm(delta - expected) <= 1e-6 * np.linalg.norm(expected)


def test_parts_of_different_scaling_rank_and_absence(
    split: Path, phi3: Path, tmp_path: Path
) -> None:
    whole = factors(made.adapter(tmp_path / "A", split, tails=("q_proj", "v_proj", "up_proj")))
    pairs = {
        name: (b[:, :2], a[:2]) if name.endswith("v_proj") else (b, a)
        for name, (b, a) in whole.items()
    }
    adapter = files.write_adapter(
        tmp_path / "B", pairs, rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 6},
        r=RANK, lora_alpha=RANK,
    )  # fmt: skip
    result = transfer(adapter, split, phi3, tmp_path / "out", method="copy")
    assert ranks(result) == {"qkv_proj": 6, "gate_up_proj": 4}
    own, found = logits(load_peft(split, adapter)), logits(load_peft(phi3, result.output))
    assert distance(found, own) <= 1e-5 * distance(own, logits(load_base(split)))
    after = factors(result.output)
    scale = scalings(load_peft(phi3, result.output))
    for name, delta in fused.deltas(phi3, after).items():
        if name not in pairs:
            assert not delta.any()
            continue
        expected = made.product(pairs[name]) * (3.0 if name.endswith("v_proj") else 1.0)
        part = fused.parts(phi3)[name]
        owner = next(key for key in scale if key.endswith(part.whole.name))
        # Each factor is rounded once to float32.
        assert np.linalg.norm(scale[owner] * delta - expected) <= 1e-6 * np.linalg.norm(expected)
    whys = {row.part: row.why for row in result.report.modules}
    assert (
        "joined with v_proj into qkv_proj of rank 6, the sum of its parts' 4 + 2" in whys["q_proj"]
    )
    assert "the up_proj rows of gate_up_proj, whose other rows are zero" in whys["up_proj"]


@pytest.mark.parametrize("method", PAIRWISE)
@pytest.mark.parametrize("apart", [False, True])
def test_every_method_makes_of_parts_what_its_formula_says(
    split: Path, phi3: Path, tmp_path: Path, method: str, apart: bool
) -> None:
    if apart:
        source, adapter = phi3, fused_adapter(tmp_path / "A", phi3)
        target = made.llama(tmp_path / "T", seed=2, depth=2)
    else:
        source, adapter = split, made.adapter(tmp_path / "A", split)
        target = fused.phi3_of(made.llama(tmp_path / "T", seed=2, depth=2), tmp_path / "TF")
    result = transfer(adapter, source, target, tmp_path / "out", method=method, subspace_rank=16)
    load_peft(target, result.output)
    before, after = (
        fused.deltas(source, factors(adapter)),
        fused.deltas(target, factors(result.output)),
    )
    assert before.keys() == after.keys()
    own, others = subspaces(source), subspaces(target)
    rows = {(row.part and f"{row.name.rpartition('.')[0]}.{row.part}") or row.name: row
            for row in result.report.modules}  # fmt: skip
    assert rows.keys() == after.keys()
    for name, delta in before.items():
        (us, vs), (ut, vt) = own[name], others[name]
        expected = delta
        if method != "copy":
            inside = us @ us.T @ delta @ vs @ vs.T
            expected = ut @ ut.T @ (delta if method == "lora-x" else inside) @ vt @ vt.T
        if method == "prolora":
            m, n = (np.eye(size) for size in delta.shape)
            outside = (m - us @ us.T) @ delta @ (n - vs @ vs.T)
            expected = expected + (m - ut @ ut.T) @ outside @ (n - vt @ vt.T)
            u, sigma, v = np.linalg.svd(expected)
            expected = (u[:, :RANK] * sigma[:RANK]) @ v[:RANK]
            assert rows[name].rank_loss == pytest.approx(
                np.sum(sigma[RANK:] ** 2) / np.sum(sigma**2)
            )
        whole = after_factors(result, target, name)
        bound = 2 * cast_bound(*whole, "F32") + 1e-12 * np.linalg.norm(delta)
        assert np.linalg.norm(after[name] - expected) <= bound
        assert rows[name].delta_norm == pytest.approx(np.linalg.norm(after[name]), rel=1e-9)
        assert rows[name].source_norm == pytest.approx(np.linalg.norm(delta), rel=1e-9)
    assert result.report.summary.norm_share == pytest.approx(1.0, rel=1e-12)


def after_factors(result: Transfer, target: Path, name: str) -> tuple[Array, Array]:
    return factors(result.output)[fused.parts(target)[name].whole.name]


def subspaces(checkpoint: Path) -> dict[str, tuple[Array, Array]]:
    with TensorReader() as reader:
        finder = SubspaceFinder(reader, SubspaceCache(None), SubspaceRank(16))
        found = {name: finder.find(part.linear) for name, part in fused.parts(checkpoint).items()}
    return {name: (s.U.astype(np.float64), s.V.astype(np.float64)) for name, s in found.items()}


def test_fused_weights_whose_rows_lie_alike_are_one(phi3: Path, tmp_path: Path) -> None:
    adapter = fused_adapter(tmp_path / "A", phi3)
    near = made.moved(phi3, tmp_path / "near", change=0.01)
    for method in ("copy", "lora-x", "prolora"):
        result = transfer(adapter, phi3, near, tmp_path / method, method=method, subspace_rank=16)
        assert set(ranks(result).values()) == {RANK}
        assert {row.part for row in result.report.modules} == {""}
    assert same_tensors(tmp_path / "copy", adapter)


def test_fused_weights_of_other_shapes_go_part_by_part(phi3: Path, tmp_path: Path) -> None:
    adapter = fused_adapter(tmp_path / "A", phi3)
    wider = fused.phi3_of(made.wider(tmp_path / "W", seed=2), tmp_path / "T")
    result = transfer(adapter, phi3, wider, tmp_path / "out", subspace_rank=16, controls=True)
    assert ranks(result) == {"qkv_proj": 12, "gate_up_proj": 8, "o_proj": 4, "down_proj": 4}
    for path in (result.output, *result.controls.values()):
        assert distance(logits(load_peft(wider, path)), logits(load_base(wider))) > 0
    assert {row.divided_by for row in result.report.modules} == {3}
    assert result.report.summary.norm_share == pytest.approx(1.0, rel=1e-12)
    own = {row.name: 0.0 for row in result.report.modules}
    for row in result.report.modules:
        own[row.name] += row.delta_norm**2
    random = factors(result.controls["random"])
    for name, square in own.items():
        assert np.linalg.norm(made.product(random[name])) ** 2 == pytest.approx(square, rel=1e-6)


def test_fused_onto_fused_with_rows_in_another_order(tmp_path: Path) -> None:
    # GPT-2 keeps all queries together and [in, out]; GPT-BigCode goes head by head.
    source = tiny_models.build("gpt2", tmp_path / "S", seed=1, dtype="fp32")
    settings = tiny_models.config_of("gpt2") | {"multi_query": False}
    target = bigcode_of(source, tmp_path / "T", settings)
    assert torch.allclose(logits(load_base(source)), logits(load_base(target)), atol=1e-9)
    rng = np.random.default_rng(0)
    pairs = {}
    for name, part in fused.parts(source).items():
        if ".h." in name and (part.is_whole or part.linear.kind == "q_proj"):
            out, into = part.whole.shape
            pairs[part.whole.name] = (
                (0.05 * rng.standard_normal((out, 2))).astype(np.float32),
                rng.standard_normal((2, into)).astype(np.float32),
            )
    adapter = files.write_adapter(tmp_path / "A", pairs, fan_in_fan_out=True)
    result = transfer(adapter, source, target, tmp_path / "out", method="copy")
    own, found = logits(load_peft(source, adapter)), logits(load_peft(target, result.output))
    assert distance(found, own) <= 1e-5 * distance(own, logits(load_base(source)))
    # One lora_A for all of them, here as there.
    assert set(ranks(result).values()) == {2}
    assert any("share lora_A" in row.why for row in result.report.modules)
    back = transfer(result.output, target, source, tmp_path / "back", method="copy")
    assert same_tensors(back.output, adapter)


def bigcode_of(gpt2: Path, out: Path, settings: dict[str, Any]) -> Path:
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    model = GPTBigCodeForCausalLM(
        GPTBigCodeConfig(**settings, activation_function="gelu_new", n_inner=None)
    )
    tensors = {}
    ends = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    order = np.arange(96).reshape(3, 4, 8).transpose(1, 0, 2).ravel()
    for name, values in tiny_models.read_tensors(gpt2).items():
        swapped = values.dim() == 2 and name.endswith(ends)
        tensors[name] = values.T if swapped else values
        if "c_attn" in name:
            tensors[name] = tensors[name][order]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    model.save_pretrained(out)
    return out


def test_shared_vocab_finds_heads_and_neurons_in_fused_weights(tmp_path: Path) -> None:
    model, how = turned.tensors(), turned.turn()
    goal = turned.turned(model, how)
    words = (turned.words(np.arange(turned.TOKENS)), turned.words(how.tokens))
    source = turned.save(tmp_path / "S", model, config(model), words[0])
    target = turned.save(tmp_path / "T", goal, config(goal), words[1])
    adapter, deltas = turned.adapter(tmp_path / "A", model)
    expected = {n: turned.turned_matrix(n, delta, model, how) for n, delta in deltas.items()}
    sides = {"split": (source, target)}
    sides["fused"] = tuple(
        fused.phi3_of(one, tmp_path / f"{one.name}F") for one in (source, target)
    )
    joined = transfer(adapter, source, sides["fused"][0], tmp_path / "AF", method="copy").output
    whole = fused_adapter(tmp_path / "B", sides["fused"][0], rank=3, size=0.2)
    for own, other, given in (
        ("split", "fused", adapter), ("fused", "split", joined), ("fused", "fused", joined),
    ):  # fmt: skip
        s, t = sides[own][0], sides[other][1]
        result = transfer(given, s, t, tmp_path / f"{own}-{other}", method="shared-vocab")
        found = fused.deltas(t, factors(result.output))
        assert found.keys() == expected.keys()
        for name, delta in expected.items():
            assert np.linalg.norm(found[name] - delta) <= 1e-5 * np.linalg.norm(delta)
        assert all(row.outcome is Fate.TRANSFERRED for row in result.report.modules)
        load_peft(t, result.output)
    # One lora_A in the source is one in the target: all parts read the same stream.
    s, t = sides["fused"]
    result = transfer(whole, s, t, tmp_path / "whole", method="shared-vocab")
    assert set(ranks(result).values()) == {3}
    first, second = load_peft(s, whole), load_peft(t, result.output)
    ids = torch.tensor([[3, 17, 99, 4, 61, 110, 8]])
    back = np.argsort(how.tokens)
    with torch.no_grad():
        own = first(ids).logits.numpy()
        other = second(torch.from_numpy(back)[ids]).logits.numpy()[..., back]
        with first.disable_adapter():
            base = first(ids).logits.numpy()
    assert np.linalg.norm(other - own) <= 1e-4 * np.linalg.norm(own - base)


def config(model: dict[str, Array]) -> dict[str, Any]:
    more = {"rms_norm_eps": 1e-6, "max_position_embeddings": 64, "bos_token_id": 1,
            "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
    return turned.config(model, **more)


def test_a_file_without_configuration_is_paired_as_it_is_stored(phi3: Path, tmp_path: Path) -> None:
    adapter = fused_adapter(tmp_path / "A", phi3)
    (file,) = phi3.glob("*.safetensors")
    result = transfer(adapter, phi3, file, tmp_path / "out", method="copy")
    assert same_tensors(result.output, adapter)
    assert {row.part for row in result.report.modules} == {""}


def test_a_part_may_be_left_out_alone(split: Path, phi3: Path, tmp_path: Path) -> None:
    tensors = files.read_checkpoint(phi3)
    rng = np.random.default_rng(0)
    name = "model.layers.1.self_attn.qkv_proj"
    rows = fused.rows_of(fused.parts(phi3)["model.layers.1.self_attn.v_proj"])
    tensors[f"{name}.weight"][rows] = rng.standard_normal((len(rows), 64)) / 8.0
    other = tmp_path / "other"
    other.mkdir()
    files.save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    (other / "config.json").write_bytes((phi3 / "config.json").read_bytes())
    adapter = made.adapter(tmp_path / "A", split, tails=made.ATTENTION)
    result = transfer(adapter, split, other, tmp_path / "out", subspace_rank=8, min_similarity=0.5)
    left = [row for row in result.report.modules if row.outcome is Fate.LEFT_OUT]
    assert [(row.name, row.part) for row in left] == [(name, "v_proj")]
    assert result.report.summary.counts == {"copied": 4, "transferred": 0, "left_out": 0}
    assert "1 part of fused modules left out" in result.report.summary.verdict
    (lost,) = result.report.filters
    assert lost.modules == 1
    assert lost.share + result.report.summary.norm_share == pytest.approx(1.0)
    assert not fused.deltas(other, factors(result.output))["model.layers.1.self_attn.v_proj"].any()
    load_peft(other, result.output)


def test_the_report_tells_of_every_part_and_every_tensor_once(
    split: Path, phi3: Path, tmp_path: Path
) -> None:
    adapter = made.adapter(tmp_path / "A", split)
    result = transfer(adapter, split, phi3, tmp_path / "out", method="copy", layers="0")
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["name"] for row in data["tensors"]].count(
        "model.layers.0.self_attn.qkv_proj.weight"
    ) == 1
    outcomes = {row["name"]: row["outcome"] for row in data["tensors"]}
    assert outcomes["model.layers.0.self_attn.qkv_proj.weight"] == "adapted"
    assert outcomes["model.layers.1.mlp.gate_up_proj.weight"] == "left_out"
    assert data["summary"]["counts"] == {"copied": 4, "transferred": 0, "left_out": 4}
    (lost,) = result.report.filters
    assert (lost.option, lost.modules) == ("--layers", 4)
    names = [(row["name"], row["part"]) for row in data["modules"]]
    assert len(set(names)) == len(names) == 14
    card = (tmp_path / "out" / "README.md").read_text()
    assert "q_proj in qkv_proj" in card.replace("\\", "")
    assert any("have a larger rank for it" in text for text in result.report.summary.warnings)


def test_onto_a_family_of_other_names_queries_keys_and_values_go_and_the_rest_is_told(
    tmp_path: Path,
) -> None:
    source = tiny_models.build("phi", tmp_path / "S", seed=1, dtype="fp32")
    target = tiny_models.build("gpt_neox", tmp_path / "T", seed=2, dtype="fp32")
    tails = ("q_proj", "k_proj", "v_proj", "dense", "fc1")
    adapter = made.adapter(tmp_path / "A", source, tails=tails)
    result = transfer(adapter, source, target, tmp_path / "out", subspace_rank=8, method="copy")
    load_peft(target, result.output)
    assert {row.kind for row in result.report.modules} == {"query_key_value", "dense"}
    found = fused.deltas(target, factors(result.output))
    for name, pair in factors(adapter).items():
        if name.endswith(("q_proj", "k_proj", "v_proj")):
            layer, kind = name.split(".")[2], name.rpartition(".")[2]
            (other,) = (n for n in found if f".{layer}." in n and n.endswith(kind))
            assert np.array_equal(found[other], made.product(pair))
    (lost,) = result.report.filters
    assert (lost.option, lost.modules) == ("no counterpart", 3)
    assert "mlp.fc1" in lost.why
    assert lost.share + result.report.summary.norm_share == pytest.approx(1.0)
