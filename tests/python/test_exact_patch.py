"""``extract --exact --patch``, then ``merge --patch``: the tuned checkpoint, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import exact_models as models
import lora_files as files
from command_line import loragraft
from loragraft import extract, merge
from loragraft.errors import StoppedError

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

__all__ = ["loragraft"]

RESIDUAL = "residual.safetensors"


def changed_elsewhere(pair: models.Merge, out: Path) -> Path:
    """TUNED with another norm, some rows of an embedding changed, and a head that BASE lacks."""
    tensors = files.read_checkpoint(pair.tuned)
    rng = np.random.default_rng(5)
    for name, tensor in list(tensors.items()):
        if "norm" in name:
            tensors[name] = (tensor.astype(np.float32) * 1.01).astype(tensor.dtype)
    tensors["lm_head.weight"] = rng.standard_normal((8, 96)).astype(
        tensors["model.norm.weight"].dtype
    )
    return files.write_checkpoint(out, tensors, shards=2)


def same(directory: Path, tuned: Path) -> bool:
    found, wanted = files.read_checkpoint(directory), files.read_checkpoint(tuned)
    return set(found) == set(wanted) and all(
        (found[name].dtype, found[name].shape, found[name].tobytes())
        == (tensor.dtype, tensor.shape, tensor.tobytes())
        for name, tensor in wanted.items()
    )


@pytest.mark.parametrize(
    ("base", "tuned"), [("BF16", "BF16"), ("F16", "F16"), ("F32", "BF16"), ("BF16", "F16")]
)
def test_nothing_is_lost(tmp_path: Path, base: str, tuned: str) -> None:
    pair = models.merge(tmp_path, base=base, tuned=tuned)
    after = changed_elsewhere(pair, tmp_path / "after")
    out, restored = tmp_path / "out", tmp_path / "restored"
    report = extract(pair.base, after, out, rank=4, exact=True, patch=True).report
    assert report.modules[0].dtype == "F16"
    result = merge(pair.base, out, restored, patch=True)
    assert result.identical == len(files.read_checkpoint(after))
    assert same(restored, after)
    patch = report.extra["patch"]
    assert patch["written"]
    written = (out / "adapter_model.safetensors").stat().st_size, (out / RESIDUAL).stat().st_size
    assert patch["nbytes"] == written[1]
    assert patch["share"] == pytest.approx(sum(written) / patch["tuned_bytes"])
    assert "give TUNED bit for bit" in report.summary.verdict


def test_a_full_fine_tune_does_not_pay(tmp_path: Path) -> None:
    pair = models.merge(tmp_path, rank=0, size=20.0)
    out = tmp_path / "out"
    report = extract(pair.base, pair.tuned, out, rank=4, exact=True, patch=True).report
    assert not (out / RESIDUAL).exists()
    assert not report.extra["patch"]["written"]
    assert any("would not pay" in warning for warning in report.summary.warnings)
    assert "give TUNED bit for bit" not in report.summary.verdict


def test_every_rank_has_its_own(tmp_path: Path) -> None:
    pair = models.merge(tmp_path)
    extract(pair.base, pair.tuned, tmp_path / "out", rank="4,8", exact=True, patch=True)
    for rank in (4, 8):
        restored = tmp_path / f"restored{rank}"
        merge(pair.base, tmp_path / f"out-r{rank}", restored, patch=True)
        assert same(restored, pair.tuned)


def test_an_older_residual_goes_with_its_adapter(tmp_path: Path) -> None:
    pair = models.merge(tmp_path)
    out = tmp_path / "out"
    extract(pair.base, pair.tuned, out, rank=4, exact=True, patch=True)
    extract(pair.base, pair.tuned, out, rank=4, force=True)
    assert not (out / RESIDUAL).exists()


def test_a_stopped_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    pair = models.merge(tmp_path)
    whole, out = tmp_path / "whole", tmp_path / "out"
    extract(pair.base, pair.tuned, whole, rank=4, exact=True, patch=True)

    def stop(what: str, _done: int, _total: int) -> None:
        if what not in {"extract", "exact"}:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"rank": 4, "exact": True, "patch": True}
    with pytest.raises(StoppedError, match="--resume continues"):
        extract(pair.base, pair.tuned, out, progress=stop, **options)
    assert not (out / RESIDUAL).exists()
    extract(pair.base, pair.tuned, out, resume=True, **options)
    for name in ("adapter_model.safetensors", "adapter_config.json", RESIDUAL):
        assert (whole / name).read_bytes() == (out / name).read_bytes()


def test_from_the_command_line(tmp_path: Path, loragraft: CommandLine) -> None:
    pair = models.merge(tmp_path)
    out, restored = tmp_path / "out", tmp_path / "restored"
    answer = loragraft(
        "extract", pair.base, pair.tuned, "-o", out, "--rank", "4", "--exact", "--patch", "--json"
    )
    assert answer.code == 0, answer.err
    assert answer.data["exact"]["modules"] == {"exact": 6, "near": 0, "plain": 0}
    assert answer.data["patch"]["written"]
    answer = loragraft("merge", pair.base, out, "-o", restored, "--patch")
    assert answer.code == 0, answer.err
    assert "all 7 tensors identical to the tuned checkpoint's" in " ".join(answer.out.split())
    assert same(restored, pair.tuned)
    answer = loragraft("extract", pair.base, pair.tuned, "-o", tmp_path / "x", "--patch")
    assert answer.code == 2
    assert "--exact" in answer.error
