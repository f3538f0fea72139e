"""The files of `extract`: the same bytes from the same input, and the config last."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import extraction_checks as checks
import lora_files as files
import tiny_models
from loragraft import atomic_file
from loragraft.errors import FormatError
from loragraft.extraction import extract
from loragraft.number_formats import DTYPES
from loragraft.safetensors_header import read_header
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

RANK = 6
#: Only these files say when and from where the adapter was made.
DOCUMENTS = ["README.md", "report.html", "report.json"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return checks.noise_pair(tmp_path_factory.mktemp("pair"), files.SHAPES | checks.SKETCHED)


@pytest.fixture(scope="module")
def expected(pair: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return _run(pair["paths"], tmp_path_factory.mktemp("expected") / "out")


def _run(paths: tuple[Path, Path], out: Path, **options: Any) -> dict[str, bytes]:
    extract(*paths, out, rank=RANK, **options)
    found = checks.contents(out)
    assert sorted(found) == sorted([*DOCUMENTS, checks.CONFIG, checks.TENSORS])
    return {name: data for name, data in found.items() if name not in DOCUMENTS}


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_threads_and_io_do_not_change_the_bytes(
    tmp_path: Path, pair: dict[str, Any], expected: dict[str, bytes], threads: int, io: str
) -> None:
    assert _run(pair["paths"], tmp_path / "out", threads=threads, io=io) == expected


def test_the_sketches_of_the_pair_are_random(
    tmp_path: Path, pair: dict[str, Any], expected: dict[str, bytes]
) -> None:
    """Otherwise the tests around it prove little: another seed gives other bytes, as good."""
    assert _run(pair["paths"], tmp_path / "same", seed=0) == expected
    out = tmp_path / "out"
    other = _run(pair["paths"], out, seed=1)
    assert other[checks.CONFIG] == expected[checks.CONFIG]
    assert other[checks.TENSORS] != expected[checks.TENSORS]
    truth = verify(*pair["paths"], out, optimum=True)
    for row in truth.modules:
        b, a = checks.factors(out)[row.name]
        cast = checks.cast_bound(b, a, row.dtype) / row.delta_norm
        assert row.relative_error <= 1.001 * (row.optimal_error or 0.0) + cast


@pytest.mark.parametrize("shards", [(1, 3), (3, 1), (2, 5)])
def test_sharding_does_not_change_the_bytes(
    tmp_path: Path, pair: dict[str, Any], expected: dict[str, bytes], shards: tuple[int, int]
) -> None:
    sides = tuple(
        files.write_checkpoint(tmp_path / name / "model", pair[name], shards=count)
        for name, count in zip(("base", "tuned"), shards, strict=True)
    )
    found = _run(sides, tmp_path / "out")  # type: ignore[arg-type]
    assert found[checks.TENSORS] == expected[checks.TENSORS]
    config = json.loads(found[checks.CONFIG]) | {"base_model_name_or_path": ""}
    assert config == json.loads(expected[checks.CONFIG]) | {"base_model_name_or_path": ""}


def test_one_file_as_checkpoint(
    tmp_path: Path, pair: dict[str, Any], expected: dict[str, bytes]
) -> None:
    base, tuned = pair["paths"]
    sides = (base / "model.safetensors", tuned / "model.safetensors")
    assert _run(sides, tmp_path / "out")[checks.TENSORS] == expected[checks.TENSORS]


def test_models_that_transformers_sharded(tmp_path: Path) -> None:
    whole = tiny_models.build("llama", tmp_path / "whole", seed=1)
    parts = tiny_models.build("llama", tmp_path / "parts", seed=1, max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) >= 3
    tuned = tiny_models.perturb(whole, tmp_path / "tuned", rank=2, seed=2, scale=0.1)
    one = _run((whole, tuned), tmp_path / "one")
    other = _run((parts, tuned), tmp_path / "other")
    assert one[checks.TENSORS] == other[checks.TENSORS]
    same = extract(tuned, parts, tmp_path / "back", rank=2).report.modules
    assert [row.name for row in same] == [
        row.name for row in verify(whole, tuned, tmp_path / "one").modules
    ]


def test_dtypes_of_equal_values_give_equal_adapters(tmp_path: Path, pair: dict[str, Any]) -> None:
    """The same numbers stored wider are the same ΔW, and equal tensors stay unchanged."""
    wide = {name: array.astype(np.float32) for name, array in pair["tuned"].items()}
    norm = "model.norm.weight"
    wide[norm] = pair["base"][norm].astype(np.float32)
    tuned = files.write_checkpoint(tmp_path / "wide", wide)
    found = _run((pair["paths"][0], tuned), tmp_path / "out")
    report = extract(pair["paths"][0], tuned, rank=RANK).report
    assert checks.outcomes(report)[norm] == "unchanged"
    assert (checks.tensor(report, norm).dtype_base, checks.tensor(report, norm).dtype_tuned) == (
        "BF16",
        "F32",
    )
    narrow = _run(pair["paths"], tmp_path / "narrow")
    assert found[checks.TENSORS] == narrow[checks.TENSORS]


@pytest.mark.parametrize("dtype", ["auto", "bf16", "fp16", "fp32"])
def test_in_memory_factors_are_those_of_the_file(
    tmp_path: Path, pair: dict[str, Any], dtype: str
) -> None:
    out = tmp_path / "out"
    written = extract(*pair["paths"], out, rank=RANK, dtype=dtype, alpha=3)
    held = extract(*pair["paths"], rank=RANK, dtype=dtype, alpha=3)
    assert (held.output, written.output) == (None, out)
    assert written.factors == {}
    assert held.config == written.config == json.loads((out / checks.CONFIG).read_bytes())
    header = read_header(out / checks.TENSORS)
    data = (out / checks.TENSORS).read_bytes()
    names = []
    for name, found in held.factors.items():
        for letter, array in (("A", found.lora_A), ("B", found.lora_B)):
            extent = header.tensors[f"base_model.model.{name}.lora_{letter}.weight"]
            names.append(extent.name)
            assert (extent.dtype, extent.shape) == (found.dtype, array.shape)
            assert array.dtype == np.dtype(DTYPES[found.dtype].storage)
            assert array.tobytes() == data[extent.begin : extent.end]
        assert found.alpha == 3.0
    assert set(names) == set(header.tensors)
    rows = [
        [(row.name, row.relative_error, row.singular_values) for row in result.report.modules]
        for result in (held, written)
    ]
    assert rows[0] == rows[1]
    assert list(held.factors) == [row.name for row in held.report.modules]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_in_memory_factors_are_in_pefts_orientation(tmp_path: Path, family: str) -> None:
    base = tiny_models.build(family, tmp_path / "base", seed=1, dtype="fp32")
    tuned = tiny_models.perturb(base, tmp_path / "tuned", rank=2, seed=2, scale=0.1)
    result = extract(base, tuned, rank=2, dtype="fp32")
    sides = [tiny_models.read_tensors(side) for side in (base, tuned)]
    for row in result.report.modules:
        change = (sides[1][f"{row.name}.weight"] - sides[0][f"{row.name}.weight"]).numpy()
        found = result.factors[row.name]
        product = found.lora_B.astype(np.float64) @ found.lora_A.astype(np.float64)
        assert product.shape == row.shape
        product = product.T if family == "gpt2" else product
        assert checks.norm(product - change) == pytest.approx(
            row.relative_error * row.delta_norm, rel=0.05
        )


def test_factors_are_balanced_and_signs_are_fixed(tmp_path: Path, pair: dict[str, Any]) -> None:
    """B = U√Σ and A = √ΣVᵀ: orthogonal columns and rows of equal norms."""
    result = extract(*pair["paths"], rank=RANK, dtype="fp32")
    for row in result.report.modules:
        b = result.factors[row.name].lora_B.astype(np.float64)
        a = result.factors[row.name].lora_A.astype(np.float64)
        sigma = np.diag(row.singular_values[: row.rank])
        assert np.abs(b.T @ b - sigma).max() <= 1e-5 * sigma[0, 0]
        assert np.abs(a @ a.T - sigma).max() <= 1e-5 * sigma[0, 0]


def test_order_of_the_tensors_in_the_file(expected: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(expected[checks.TENSORS])
    names = list(read_header(path).tensors)
    assert names == sorted(names, key=lambda name: (name.rpartition(".lora_")[0], name))
    assert dict(read_header(path).metadata) == {"format": "pt"}


def test_the_config_is_written_last(
    tmp_path: Path, pair: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the config the adapter is not there; when its write fails, neither is the rest."""
    written: list[str] = []
    commit = atomic_file.AtomicFile.commit

    def record(file: atomic_file.AtomicFile) -> None:
        if file.path.name == checks.CONFIG:
            raise FormatError("the disk fails")
        commit(file)
        written.append(file.path.name)

    monkeypatch.setattr(atomic_file.AtomicFile, "commit", record)
    out = tmp_path / "out"
    checks.refused(
        FormatError, "the disk fails", lambda: extract(*pair["paths"], out, rank=RANK), tmp_path
    )
    assert sorted(written) == sorted([*DOCUMENTS, checks.TENSORS])
    assert written[0] == checks.TENSORS


def test_force_replaces_the_whole_adapter(tmp_path: Path, pair: dict[str, Any]) -> None:
    out = tmp_path / "out"
    extract(*pair["paths"], out, rank=2)
    fresh = _run(pair["paths"], tmp_path / "fresh")
    (out / "notes.txt").write_text("mine")
    extract(*pair["paths"], out, rank=RANK, force=True, report=False)
    found = checks.contents(out)
    assert found.pop("notes.txt") == b"mine"
    # A report of the adapter that was there would be checked against this one by `verify`.
    assert sorted(found) == ["README.md", checks.CONFIG, checks.TENSORS]
    assert found[checks.TENSORS] == fresh[checks.TENSORS]
    assert verify(*pair["paths"], out).summary.warnings == ()


def test_missing_parents_are_made(tmp_path: Path, pair: dict[str, Any]) -> None:
    out = tmp_path / "some" / "new" / "place"
    extract(*pair["paths"], out, rank=2)
    assert len(checks.contents(out)) == 5
    shutil.rmtree(tmp_path / "some")
