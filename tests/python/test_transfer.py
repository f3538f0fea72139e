"""Whole transfers between small models, against float64 references; what is left out is told."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import lora_files as files
import transfer_files as made
from extraction_checks import CAST, cast_bound, contents, factors
from loragraft import transfer
from loragraft.errors import NothingToAdaptError
from loragraft.linalg import truncated_svd
from loragraft.transferring.report import Fate

if TYPE_CHECKING:
    from pathlib import Path

Q1 = "model.layers.1.self_attn.q_proj"


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAGRAFT_CACHE", "off")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made.llama(tmp_path / "S", seed=1)


def same_tensors(one: Path, other: Path) -> bool:
    left, right = files.read_checkpoint(one), files.read_checkpoint(other)
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


@pytest.mark.parametrize("method", ["copy", "auto"])
@pytest.mark.parametrize(
    "config", [{}, {"use_rslora": True}, {"alpha": 13.0}, {"alpha_pattern": {"q_proj": 3}}]
)
def test_a_copy_onto_the_source_gives_the_source_back_bit_for_bit(
    source: Path, tmp_path: Path, method: str, config: dict[str, Any]
) -> None:
    adapter = made.adapter(tmp_path / "A", source, **config)
    result = transfer(adapter, source, source, tmp_path / "out", method=method)
    assert same_tensors(adapter, result.output)
    assert {row.outcome for row in result.report.modules} == {Fate.COPIED}
    assert result.report.summary.norm_share == pytest.approx(1.0, rel=1e-12)
    assert result.report.summary.retained == pytest.approx(1.0, rel=1e-12)
    scalings = _scalings(result.config)
    own = _scalings(json.loads((adapter / "adapter_config.json").read_text()))
    for name in made.rows(result):
        kind = name.rpartition(".")[2]
        expected = own.get(kind, own[""])
        assert scalings.get(kind, scalings[""]) == pytest.approx(expected, rel=2.0**-51)


def _scalings(config: Any) -> dict[str, float]:
    """Scaling by kind of module; the common one under the empty name."""
    root = math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]
    found = {"": config["lora_alpha"] / root}
    for pattern, alpha in config.get("alpha_pattern", {}).items():
        found["q_proj" if "q_proj" in pattern else pattern] = alpha / root
    return found


def test_lora_x_of_full_rank_gives_the_source_back_to_rounding(
    source: Path, tmp_path: Path
) -> None:
    adapter = made.adapter(tmp_path / "A", source, tails=("q_proj", "o_proj"))
    result = transfer(adapter, source, source, tmp_path / "out", method="lora-x", subspace_rank=64)
    weights = made.matrices(source)
    before, after = factors(adapter), factors(result.output)
    for name, pair in before.items():
        svd = truncated_svd(weights[name].astype(np.float32), 64)
        # For a square basis ‖U Uᵀ − I‖ = ‖Uᵀ U − I‖, which is measured; P ΔW Q then differs from
        # ΔW by at most (a + b + a b) ‖ΔW‖, and the factors are rounded to float32.
        a, b = (np.linalg.norm(m.T @ m - np.eye(64), 2) for m in _wide(svd.U, svd.Vt.T))
        assert max(a, b) <= 64 * 2.0**-23
        delta = made.product(pair)
        bound = (a + b + a * b) * np.linalg.norm(delta) + 2 * cast_bound(*after[name], "F32")
        assert np.linalg.norm(made.product(after[name]) - delta) <= bound


def _wide(*arrays: made.Array) -> list[made.Array]:
    return [array.astype(np.float64) for array in arrays]


@pytest.mark.parametrize("method", ["lora-x", "cross-lora", "prolora"])
def test_methods_write_what_their_formulas_say(source: Path, tmp_path: Path, method: str) -> None:
    target = made.llama(tmp_path / "T", seed=2)
    adapter = made.adapter(tmp_path / "A", source, alpha=8.0, rank=4)
    result = transfer(adapter, source, target, tmp_path / "out", method=method, subspace_rank=16)
    before, after = factors(adapter), factors(result.output)
    goal = made.matrices(target)
    own, others = made.subspaces(source, 16), made.subspaces(target, 16)
    for name, row in made.rows(result).items():
        assert row.method == method
        delta = 2.0 * made.product(before[name])
        (us, vs), (ut, vt) = own[name], others[name]
        inside = us @ us.T @ delta @ vs @ vs.T
        expected = ut @ ut.T @ (delta if method == "lora-x" else inside) @ vt @ vt.T
        if method == "prolora":
            m, n = (np.eye(size) for size in delta.shape)
            outside = (m - us @ us.T) @ delta @ (n - vs @ vs.T)
            expected = expected + (m - ut @ ut.T) @ outside @ (n - vt @ vt.T)
            u, sigma, v = np.linalg.svd(expected)
            assert row.rank_loss == pytest.approx(np.sum(sigma[4:] ** 2) / np.sum(sigma**2))
            expected = (u[:, :4] * sigma[:4]) @ v[:4]
        written = 2.0 * made.product(after[name])
        bound = 2 * cast_bound(*after[name], "F32", 2.0) + 1e-12 * np.linalg.norm(delta)
        assert np.linalg.norm(written - expected) <= bound
        assert row.delta_norm == pytest.approx(np.linalg.norm(written), rel=1e-12)
        assert row.source_norm == pytest.approx(np.linalg.norm(delta), rel=1e-12)
        assert row.effect == pytest.approx(row.delta_norm / np.linalg.norm(goal[name]), rel=1e-9)


def test_an_unrelated_target_is_seen_to_be_unrelated(tmp_path: Path) -> None:
    source = made.llama(tmp_path / "S", seed=1, width=128, inner=192)
    target = made.llama(tmp_path / "T", seed=2, width=128, inner=192)
    adapter = made.adapter(tmp_path / "A", source)
    result = transfer(adapter, source, target, tmp_path / "out", method="lora-x", subspace_rank=24)
    rows = made.rows(result)
    for row in rows.values():
        (m, n), r = row.shape, row.subspace_rank
        assert row.chance_retained == pytest.approx(r / math.sqrt(m * n))
        assert row.left is not None
        assert row.right is not None
        for side in (row.left, row.right):
            assert side.z is not None
            # 56 draws of what is all but normal: beyond five standard deviations is no accident.
            assert abs(side.z) < 5
            assert not side.is_clear
    squares = [(row.retained or 0.0) ** 2 for row in rows.values()]
    expected = [(row.chance_retained or 0.0) ** 2 for row in rows.values()]
    assert math.sqrt(sum(squares) / sum(expected)) == pytest.approx(1.0, abs=0.15)
    assert "near no-op" in result.report.summary.verdict
    assert all(row.near_no_op for row in rows.values())
    assert any("near no-op" in text for text in result.report.summary.warnings)


def test_the_filter_refuses_an_unrelated_target_and_says_what_would_help(
    source: Path, tmp_path: Path
) -> None:
    target = made.llama(tmp_path / "T", seed=2)
    adapter = made.adapter(tmp_path / "A", source)
    with pytest.raises(NothingToAdaptError) as caught:
        transfer(
            adapter,
            source,
            target,
            tmp_path / "out",
            subspace_rank=16,
            min_similarity="auto",
        )
    assert "--min-similarity auto" in str(caught.value)
    assert "100.00%" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_auto_copies_onto_a_model_trained_further_and_projects_elsewhere(
    source: Path, tmp_path: Path
) -> None:
    adapter = made.adapter(tmp_path / "A", source)
    near = made.moved(source, tmp_path / "near", change=0.02)
    options: dict[str, Any] = {"subspace_rank": 16, "min_similarity": "auto"}
    result = transfer(adapter, source, near, tmp_path / "out", **options)
    assert {row.outcome for row in result.report.modules} == {Fate.COPIED}
    assert same_tensors(adapter, result.output)
    for row in result.report.modules:
        assert row.weight_change == pytest.approx(0.02, rel=1e-4)
        assert row.excess is not None
        assert row.excess > 0.9
        assert "similarity clearly above chance" in row.why
    far = made.llama(tmp_path / "far", seed=5)
    result = transfer(adapter, source, far, tmp_path / "out2", subspace_rank=16)
    assert {row.method for row in result.report.modules} == {"lora-x"}
    assert all("not clearly above chance" in row.why for row in result.report.modules)


@pytest.mark.parametrize("method", ["auto", "lora-x", "cross-lora"])
def test_other_depth_width_and_heads(source: Path, tmp_path: Path, method: str) -> None:
    target = made.wider(tmp_path / "T", seed=2)
    adapter = made.adapter(tmp_path / "A", source)
    result = transfer(adapter, source, target, tmp_path / "out", method=method, subspace_rank=16)
    rows = made.rows(result)
    weights = made.matrices(target)
    assert set(rows) == set(weights)
    for name, (b, a) in factors(result.output).items():
        assert (b.shape[0], a.shape[1]) == weights[name].shape
        assert rows[name].excess is None
        assert rows[name].left.why
        assert "by index" in rows[name].why
    assert result.report.layers == {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3}
    divided = {row.source_layer: row.divided_by for row in rows.values()}
    assert divided == {0: 1, 1: 2, 2: 2, 3: 1}
    assert any("feed several" in text for text in result.report.summary.warnings)
    assert result.report.summary.norm_share == pytest.approx(1.0)
    assert result.report.summary.layer_map == "proportional"


def test_a_divided_source_gives_every_layer_its_part(source: Path, tmp_path: Path) -> None:
    table = tmp_path / "layers.json"
    table.write_text(json.dumps({"0": 1, "2": 1, "3": 1}))
    adapter = made.adapter(tmp_path / "A", source)
    result = transfer(
        adapter, source, source, tmp_path / "out", method="copy", layer_map=str(table)
    )
    before, after = factors(adapter), factors(result.output)
    for layer in (0, 2, 3):
        name = Q1.replace("layers.1", f"layers.{layer}")
        third = made.product(before[Q1]) / 3
        bound = 2 * cast_bound(*after[name], "F32")
        assert np.linalg.norm(made.product(after[name]) - third) <= bound
    assert not any("layers.1." in name for name in after)
    (lost,) = result.report.filters
    assert lost.option.startswith("--layer-map file")
    assert lost.modules == 21
    assert lost.share + result.report.summary.norm_share == pytest.approx(1.0)


@pytest.mark.parametrize(("tails", "preset"), [(made.MLP, "attention"), (made.ATTENTION, "mlp")])
def test_a_filter_never_ends_in_a_silent_zero(
    source: Path, tmp_path: Path, tails: tuple[str, ...], preset: str
) -> None:
    adapter = made.adapter(tmp_path / "A", source, tails=tails)
    result = transfer(adapter, source, source, tmp_path / "out")
    assert len(result.report.modules) == 4 * len(tails)
    with pytest.raises(NothingToAdaptError) as caught:
        transfer(adapter, source, source, tmp_path / "none", target_modules=preset)
    message = str(caught.value)
    assert f"--target-modules {preset} removes" in message
    assert "100.00% of the adapter's squared norm" in message
    assert tails[0].rpartition(".")[2] in message
    assert not (tmp_path / "none").exists()


def test_every_filter_states_the_share_that_it_removed(source: Path, tmp_path: Path) -> None:
    adapter = made.adapter(tmp_path / "A", source)
    squares = {name: np.linalg.norm(made.product(p)) ** 2 for name, p in factors(adapter).items()}
    result = transfer(
        adapter,
        source,
        source,
        tmp_path / "out",
        target_modules="attention",
        exclude="k_proj",
        layers="0-2",
    )
    total = sum(squares.values())
    removed = {one.option: one for one in result.report.filters}
    expected = {
        "--target-modules attention": [name for name in squares if "mlp" in name],
        "--exclude k_proj": [name for name in squares if "k_proj" in name],
        "--layers": [
            name
            for name in squares
            if "layers.3." in name and "mlp" not in name and "k_proj" not in name
        ],
    }
    assert removed.keys() == expected.keys()
    for option, names in expected.items():
        share = sum(squares[name] for name in names) / total
        assert removed[option].share == pytest.approx(share, rel=1e-9)
        assert removed[option].modules == len(names)
    gone = sum(one.share for one in removed.values())
    assert result.report.summary.norm_share == pytest.approx(1 - gone, rel=1e-9)
    assert sum(row.share for row in result.report.modules) == pytest.approx(1.0, rel=1e-9)


def test_scale_and_match_norm(source: Path, tmp_path: Path) -> None:
    target = made.llama(tmp_path / "T", seed=2)
    adapter = made.adapter(tmp_path / "A", source)
    results = {
        scale: transfer(
            adapter,
            source,
            target,
            tmp_path / f"out-{scale}",
            method="lora-x",
            subspace_rank=16,
            scale=scale,
        )
        for scale in (1.0, 2.5, "match-norm")
    }
    plain, scaled, matched = (made.rows(result) for result in results.values())
    for name, row in plain.items():
        assert scaled[name].delta_norm == pytest.approx(2.5 * row.delta_norm, rel=4 * CAST["F32"])
        norm = matched[name].source_norm
        assert matched[name].delta_norm == pytest.approx(norm, rel=4 * CAST["F32"])
        # What is kept is told without the scale.
        assert matched[name].retained == row.retained == scaled[name].retained


def test_the_cache_gives_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = made.llama(tmp_path / "T", seed=2)
    adapter = made.adapter(tmp_path / "A", source)
    options: dict[str, Any] = {"method": "prolora", "subspace_rank": 16}
    bare = transfer(adapter, source, target, tmp_path / "bare", **options)
    monkeypatch.setenv("LORAGRAFT_CACHE", str(tmp_path / "cache"))
    first = transfer(adapter, source, target, tmp_path / "first", threads=1, **options)
    again = transfer(adapter, source, target, tmp_path / "again", threads=3, **options)
    name = "adapter_model.safetensors"
    data = {(result.output / name).read_bytes() for result in (bare, first, again)}
    assert len(data) == 1
    assert first.report.summary.subspaces_computed == 56
    assert first.report.summary.subspaces_cached == 0
    assert again.report.summary.subspaces_computed == 0
    assert again.report.summary.subspaces_cached == 56


def test_controls(source: Path, tmp_path: Path) -> None:
    target = made.wider(tmp_path / "T", seed=2)
    adapter = made.adapter(tmp_path / "A", source)
    options: dict[str, Any] = {"method": "lora-x", "subspace_rank": 16, "controls": True}
    result = transfer(adapter, source, target, tmp_path / "out", **options)
    assert sorted(result.controls) == ["padded-copy", "random", "shuffled"]
    own, before = factors(result.output), factors(adapter)
    controls = {name: factors(path) for name, path in result.controls.items()}
    for found in controls.values():
        assert found.keys() == own.keys()
    for name, row in made.rows(result).items():
        random = made.product(controls["random"][name])
        assert np.linalg.norm(random) == pytest.approx(row.delta_norm, rel=4 * CAST["F32"])
        padded = np.zeros(row.shape)
        delta = made.product(before[row.source]) / row.divided_by
        padded[: delta.shape[0], : delta.shape[1]] = delta
        difference = made.product(controls["padded-copy"][name]) - padded
        assert np.linalg.norm(difference) <= 2 * cast_bound(*controls["padded-copy"][name], "F32")
        shuffled = made.product(controls["shuffled"][name])
        assert np.linalg.norm(shuffled - made.product(own[name])) > 0.5 * row.delta_norm
    again = transfer(adapter, source, target, tmp_path / "again", **options)
    for name, path in result.controls.items():
        assert same_tensors(path, again.controls[name])
        assert "control" in (path / "README.md").read_text()


def test_the_report_accounts_for_every_tensor(source: Path, tmp_path: Path) -> None:
    adapter = made.adapter(tmp_path / "A", source, tails=("q_proj", "down_proj"))
    result = transfer(adapter, source, source, tmp_path / "out", layers="0-1")
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data == json.loads(json.dumps(result.report.to_json()))
    assert data["schema"] == "loragraft.report/1"
    assert data["command"] == "transfer"
    names = [row["name"] for row in data["tensors"]]
    assert len(names) == len(set(names))
    assert set(names) == set(files.read_checkpoint(source))
    outcomes = {row["name"]: row["outcome"] for row in data["tensors"]}
    assert outcomes["model.layers.0.self_attn.q_proj.weight"] == "adapted"
    assert outcomes["model.layers.3.self_attn.q_proj.weight"] == "left_out"
    assert outcomes["model.layers.0.self_attn.k_proj.weight"] == "unchanged"
    assert data["summary"]["counts"] == {"copied": 4, "transferred": 0, "left_out": 4}
    assert sorted(contents(tmp_path / "out")) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "report.html",
        "report.json",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "4 modules copied" in card
