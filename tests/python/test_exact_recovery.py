"""``extract --exact``: the adapter that was merged comes back through the rounding."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import exact_models as models
import lora_files as files
import moe_models as moe
from loragraft import extract, merge, verify
from loragraft.errors import NothingToAdaptError, StoppedError, UsageError
from loragraft.extraction.exact.trials import Trials

if TYPE_CHECKING:
    from pathlib import Path

    from loragraft.extraction import Extraction

#: Rounding errors of single precision leave a few weights at the very ends of their cells.
ALMOST_ALL = 1.0 - 5e-4


def product(factors: Any) -> Any:
    return factors.lora_B.astype(np.float64) @ factors.lora_A.astype(np.float64)


def statuses(result: Extraction) -> set[str]:
    return {module.recovery["status"] for module in result.report.modules if module.recovery}


@pytest.mark.parametrize(
    ("base", "tuned"),
    [("BF16", "BF16"), ("F16", "F16"), ("F32", "BF16"), ("F32", "F16"), ("BF16", "F16")],
)
def test_the_merged_adapter_comes_back(tmp_path: Path, base: str, tuned: str) -> None:
    pair = models.merge(tmp_path, base=base, tuned=tuned)
    plain = extract(pair.base, pair.tuned, rank=4, dtype="fp32")
    result = extract(pair.base, pair.tuned, rank=4, exact=True)
    assert statuses(result) == {"exact"}
    for name, change in pair.changes.items():
        assert result.factors[name].dtype == "F32"
        assert models.error(product(result.factors[name]), change) < 0.6 * models.error(
            product(plain.factors[name]), change
        )
    summary = result.report.summary
    assert summary.bit_exact is not None
    assert summary.bit_exact >= ALMOST_ALL
    assert "6 of 6 modules recovered through their rounding" in summary.verdict
    # Exact factors leave the rounding out, which the plain ones fit a part of.
    assert summary.error >= plain.report.summary.error


@pytest.mark.parametrize("alpha", [None, 8.0, 3.0])
def test_what_is_reported_is_what_is_on_disk(tmp_path: Path, alpha: float | None) -> None:
    pair = models.merge(tmp_path)
    out = tmp_path / "out"
    report = extract(pair.base, pair.tuned, out, rank=4, exact=True, alpha=alpha).report
    checked = verify(pair.base, pair.tuned, out)
    assert checked.extra["claims"]["worst_difference"] < 1e-6
    verified = {module.name: module for module in checked.modules}
    for ours in report.modules:
        theirs, weights = verified[ours.name], np.prod(ours.shape)
        assert ours.bit_exact is not None
        assert theirs.bit_exact is not None
        # Sums at the very end of a cell may fall to either side in another order.
        assert abs(ours.bit_exact - theirs.bit_exact) * weights <= 2
    merged = tmp_path / "merged"
    merge(pair.base, out, merged, dtype="bf16")
    bits = [load_file(d / "model.safetensors") for d in (merged, pair.tuned)]
    equal = [np.count_nonzero(bits[0][n].view("u2") == bits[1][n].view("u2")) for n in bits[1]]
    assert sum(equal) >= ALMOST_ALL * sum(array.size for array in bits[1].values())


@pytest.mark.parametrize("tuned", ["F8_E4M3", "F8_E5M2"])
def test_eight_bits(tmp_path: Path, tuned: str) -> None:
    pair = models.merge(tmp_path, base="BF16", tuned=tuned)
    result = extract(pair.base, pair.tuned, rank=4, exact=True)
    assert statuses(result) == {"exact"}
    for name, change in pair.changes.items():
        assert models.error(product(result.factors[name]), change) < 0.15
    out = tmp_path / "out"
    report = extract(pair.base, pair.tuned, out, rank=4, exact=True).report
    assert any("which merge does not write" in warning for warning in report.summary.warnings)
    checked = verify(pair.base, pair.tuned, out).summary.bit_exact
    assert checked == pytest.approx(report.summary.bit_exact, abs=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 4, 9])
@pytest.mark.parametrize("size", [0.7, 4.0])
def test_auto_finds_the_rank(tmp_path: Path, rank: int, size: float) -> None:
    pair = models.merge(tmp_path, rank=rank, size=size)
    result = extract(pair.base, pair.tuned, rank="auto", max_rank=24, exact=True)
    assert {module.rank for module in result.report.modules} == {rank}
    assert statuses(result) == {"exact"}
    # Changes below half a cell leave most weights as they were.
    if size > 1.0:
        assert result.report.extra["exact"]["rank_unknown"] == 0


def test_a_rank_that_cannot_be_known(tmp_path: Path) -> None:
    """Two changed weights for each degree of freedom: a smaller rank fits as well."""
    pair = models.merge(tmp_path, rank=24, size=2.0)
    report = extract(pair.base, pair.tuned, rank="auto", max_rank=48, exact=True).report
    assert {module.rank for module in report.modules} == {24}
    assert report.extra["exact"]["rank_unknown"] == len(report.modules)
    assert any("cannot be known" in warning for warning in report.summary.warnings)


def test_hardly_any_weight_changed(tmp_path: Path) -> None:
    """Many ranks would fit whatever the change is; none is looked for, and nothing is spoilt."""
    pair = models.merge(tmp_path, rank=0, size=0.1)
    out = tmp_path / "out"
    extract(pair.base, pair.tuned, out, rank=4)
    kept = (out / "adapter_model.safetensors").read_bytes()
    with pytest.raises(NothingToAdaptError, match="give a rank such as 16"):
        extract(pair.base, pair.tuned, out, rank="auto", exact=True, force=True)
    assert (out / "adapter_model.safetensors").read_bytes() == kept


@pytest.mark.parametrize("rank", ["2", "4", "auto"])
def test_a_full_fine_tune_is_plain(
    tmp_path: Path, rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its spectrum alone rules every useful rank out: nothing is searched, and the bytes stay."""

    def searched(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Trials, "_take", searched)
    pair = models.merge(tmp_path, rank=0, size=20.0)
    plain, exact = tmp_path / "plain", tmp_path / "exact"
    extract(pair.base, pair.tuned, plain, rank=rank, max_rank=24 if rank == "auto" else None)
    result = extract(
        pair.base, pair.tuned, exact, rank=rank, max_rank=24 if rank == "auto" else None, exact=True
    )
    assert statuses(result) == {"plain"}
    assert result.report.summary.bit_exact is None
    assert "that of a plain extraction" in result.report.summary.verdict
    assert any("plain extraction in 6 modules" in w for w in result.report.summary.warnings)
    name = "adapter_model.safetensors"
    assert (plain / name).read_bytes() == (exact / name).read_bytes()


def test_too_small_a_rank_is_plain(tmp_path: Path) -> None:
    pair = models.merge(tmp_path, rank=6, size=1.0)
    result = extract(pair.base, pair.tuned, rank=5, exact=True)
    assert statuses(result) == {"plain"}
    for module in result.report.modules:
        assert module.relative_error == pytest.approx(module.optimal_error, rel=1e-3)


def test_a_change_that_was_rounded_before_it_was_added(tmp_path: Path) -> None:
    pair = models.merge(tmp_path, rank=4, size=300.0, rounded=True)
    result = extract(pair.base, pair.tuned, rank=4, exact=True)
    assert statuses(result) == {"exact"}
    assert result.report.extra["exact"]["slack"] == 2.0**-8
    assert any("rounded to bf16 before it was added" in w for w in result.report.summary.warnings)
    straight = models.merge(tmp_path / "straight", rank=4, size=300.0)
    report = extract(straight.base, straight.tuned, rank=4, exact=True).report
    assert report.extra["exact"]["slack"] == 0.0


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_is_measured_after_the_cast(tmp_path: Path, dtype: str) -> None:
    pair = models.merge(tmp_path, size=8.0)
    out = tmp_path / "out"
    report = extract(pair.base, pair.tuned, out, rank=4, exact=True, dtype=dtype).report
    checked = verify(pair.base, pair.tuned, out)
    assert report.summary.bit_exact is not None
    assert checked.summary.bit_exact == pytest.approx(report.summary.bit_exact, abs=1e-4)
    assert report.summary.bit_exact < ALMOST_ALL


def test_several_ranks(tmp_path: Path) -> None:
    pair = models.merge(tmp_path)
    result = extract(pair.base, pair.tuned, tmp_path / "out", rank="2,4,8", exact=True)
    by_rank = {one.report.inputs["rank"]: statuses(one) for one in (*result.smaller, result)}
    assert by_rank == {2: {"plain"}, 4: {"exact"}, 8: {"exact"}}
    alone = extract(pair.base, pair.tuned, tmp_path / "alone", rank=4, exact=True)
    assert alone.report.summary.bit_exact is not None


def test_modules_without_cells(tmp_path: Path) -> None:
    pair = models.merge(tmp_path, base="F32", tuned="F32", size=1e4)
    report = extract(pair.base, pair.tuned, rank=4, exact=True).report
    assert any("stores it as F32, expected one of BF16" in w for w in report.summary.warnings)


def test_threads_and_reading_leave_no_trace(tmp_path: Path) -> None:
    pair = models.merge(tmp_path)
    written = []
    for number, (threads, io) in enumerate([(1, "mmap"), (2, "mmap"), (7, "pread")]):
        out = tmp_path / str(number)
        extract(pair.base, pair.tuned, out, rank=4, exact=True, threads=threads, io=io)
        written.append((out / "adapter_model.safetensors").read_bytes())
    assert len(set(written)) == 1


@pytest.mark.parametrize(
    ("rank", "count"),
    [("4", 2), ("4", 9), ("4", 12), ("auto", 2), ("auto", 9), ("auto", 14), ("auto", 18)],
)
def test_a_stopped_search_goes_on_to_the_same_bytes(tmp_path: Path, rank: str, count: int) -> None:
    pair = models.merge(tmp_path)
    whole, out = tmp_path / "whole", tmp_path / "out"
    extract(pair.base, pair.tuned, whole, rank=rank, exact=True)
    calls = 0

    def progress(_what: str, _done: int, _total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError, match="--resume continues"):
        extract(pair.base, pair.tuned, out, rank=rank, exact=True, progress=progress)
    seen: list[str] = []
    extract(
        pair.base, pair.tuned, out, rank=rank, exact=True, resume=True,
        progress=lambda what, _done, _total: seen.append(what),
    )  # fmt: skip
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (whole / name).read_bytes() == (out / name).read_bytes()
    # Seven tensors and six searches at least, less what was done already.
    assert seen.count("extract") == max(0, 7 - count)
    with pytest.raises(UsageError, match="other inputs, options"):
        _stopped_then_plain(tmp_path, pair)


def _stopped_then_plain(tmp_path: Path, pair: models.Merge) -> None:
    out = tmp_path / "other"

    def stop(_what: str, done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        extract(pair.base, pair.tuned, out, rank=4, exact=True, progress=stop)
    extract(pair.base, pair.tuned, out, rank=4, resume=True)


def test_stored_the_other_way_round(tmp_path: Path) -> None:
    """GPT-2 stores ``[in, out]``."""
    rng = np.random.default_rng(0)
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    names = {f"transformer.h.{i}.mlp.c_fc.weight": (96, 160) for i in range(2)}
    base = {n: (0.05 * rng.standard_normal(s)).astype(ml_dtypes.bfloat16) for n, s in names.items()}
    tuned, changes = {}, {}
    for name, (rows, columns) in names.items():
        change = 3e-4 * rng.standard_normal((rows, 4)) @ rng.standard_normal((4, columns))
        tuned[name] = (base[name].astype(np.float32) + change.astype(np.float32)).astype(
            ml_dtypes.bfloat16
        )
        changes[name.removesuffix(".weight")] = change.T
    one = files.write_checkpoint(tmp_path / "base", base, config=config)
    other = files.write_checkpoint(tmp_path / "tuned", tuned, config=config)
    result = extract(one, other, rank=4, exact=True)
    assert statuses(result) == {"exact"}
    for name, change in changes.items():
        assert models.error(product(result.factors[name]), change) < 0.05


def _added(tensor: Any, change: Any) -> Any:
    """The sum, rounded once; the change is about three half cells."""
    weights = tensor.astype(np.float32)
    return (weights + (0.02 * weights.std() * change).astype(np.float32)).astype(tensor.dtype)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "gpt_oss", "qwen3_5_moe"])
def test_experts(tmp_path: Path, model_type: str) -> None:
    base = moe.save(moe.make(model_type).to(torch.bfloat16), tmp_path / "base")
    tensors = files.read_checkpoint(base)
    rng = np.random.default_rng(0)
    tuned = {}
    for name, tensor in tensors.items():
        tuned[name] = tensor
        if "expert" in name and tensor.ndim > 1 and "bias" not in name:
            *outer, rows, columns = tensor.shape
            # Gates and ups that lie apart are one weight: they share what they read.
            reads = np.random.default_rng(columns).standard_normal((2, columns))
            change = rng.standard_normal((*outer, rows, 2)) @ reads
            tuned[name] = _added(tensor, change)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    after = files.write_checkpoint(tmp_path / "tuned", tuned, config=config)
    out = tmp_path / "out"
    report = extract(
        base, after, out, rank=2, target_modules="experts", exact=True, dtype="fp32"
    ).report
    assert {module.recovery["status"] for module in report.modules if module.recovery} == {"exact"}
    checked = verify(base, after, out)
    assert checked.summary.bit_exact is not None
    assert checked.summary.bit_exact >= ALMOST_ALL


def test_patch_needs_exact(tmp_path: Path) -> None:
    pair = models.merge(tmp_path)
    with pytest.raises(UsageError, match="--exact"):
        extract(pair.base, pair.tuned, tmp_path / "out", patch=True)
    with pytest.raises(UsageError, match="needs an output"):
        extract(pair.base, pair.tuned, patch=True, exact=True)
