"""`extract` with GGUF files: as output, beside PEFT's or alone, and as either side."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import gguf
import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gguf_models as models
import llama_models
import loragraft as package
import made_reports
from command_line import CommandLine, loragraft
from loragraft.errors import MismatchError, UsageError
from loragraft.extraction import extract
from loragraft.verification import verify
from test_export import changes_of
from test_gguf_adapter import applied
from tiny_models import edit_config, perturb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Array = np.ndarray[Any, Any]

__all__ = ["loragraft"]

PEFT = {"README.md", "adapter_config.json", "adapter_model.safetensors", "report.html",
        "report.json"}  # fmt: skip
FILES = {
    "peft": PEFT,
    "gguf": {"README.md", "adapter.gguf", "report.html", "report.json"},
    "both": {*PEFT, "adapter.gguf"},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """BASE and TUNED, every matrix of which differs by rank 2."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(case: str) -> tuple[Path, Path]:
        if case not in made:
            directory = tmp_path_factory.mktemp("pair")
            base = llama_models.build(case, directory / "base")
            made[case] = base, perturb(base, directory / "tuned", rank=2, seed=1, scale=0.05)
        return made[case]

    return get


def names_in(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


@pytest.mark.parametrize("form", ["gguf", "both"])
@pytest.mark.parametrize("case", ["llama", "qwen3_moe", "gpt_oss"])
def test_files_and_report(
    tmp_path: Path, pair: Callable[[str], tuple[Path, Path]], case: str, form: str
) -> None:
    base, tuned = pair(case)
    out = tmp_path / "out"
    result = extract(base, tuned, out, rank=2, dtype="fp32", format=form, threads=1)
    assert names_in(out) == FILES[form]
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    found = report["gguf"]
    pairs = applied(out / "adapter.gguf")
    assert found == {
        "file": "adapter.gguf",
        "bytes": (out / "adapter.gguf").stat().st_size,
        "pairs": len(pairs),
        "alpha": 2.0,
        "left_out": {},
    }
    assert report["inputs"]["format"] == form
    jsonschema.validate(report, made_reports.schema())
    assert not any("llama.cpp" in text for text in result.report.summary.warnings)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "llama-cli -m BASE.gguf --lora adapter.gguf" in card
    assert ("PeftModel" in card) == (form == "both")
    # The same bytes as an export of the PEFT files, whose changes are those of the GGUF.
    plain = tmp_path / "plain"
    extract(base, tuned, plain, rank=2, dtype="fp32", threads=1)
    assert names_in(plain) == FILES["peft"]
    package.export(plain, tmp_path / "out.gguf", base=base)
    ours, theirs = applied(out / "adapter.gguf"), applied(tmp_path / "out.gguf")
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])
    if form == "both":
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            assert (out / name).read_bytes() == (plain / name).read_bytes()


def test_no_stale_files(tmp_path: Path, pair: Callable[[str], tuple[Path, Path]]) -> None:
    base, tuned = pair("llama")
    out = tmp_path / "out"
    for form in ("both", "gguf", "peft", "gguf", "both", "peft"):
        with_force = out.exists()
        if with_force:
            with pytest.raises(UsageError, match="--force"):
                extract(base, tuned, out, rank=2, format=form, threads=1)
        extract(base, tuned, out, rank=2, format=form, force=with_force, threads=1)
        assert names_in(out) == FILES[form], form
    extract(base, tuned, out, rank=2, format="gguf", force=True, report=False, threads=1)
    assert names_in(out) == {"README.md", "adapter.gguf"}


def test_resume_of_the_other_format(
    tmp_path: Path, pair: Callable[[str], tuple[Path, Path]]
) -> None:
    """A finished adapter of the other format is no unfinished work of this one."""
    base, tuned = pair("llama")
    out = tmp_path / "out"
    extract(base, tuned, out, rank=2, format="gguf", threads=1)
    before = (out / "adapter.gguf").read_bytes()
    for form in ("gguf", "peft"):
        with pytest.raises(UsageError):
            extract(base, tuned, out, rank=2, format=form, resume=True, threads=1)
    assert names_in(out) == FILES["gguf"]
    assert (out / "adapter.gguf").read_bytes() == before


def test_several_ranks(tmp_path: Path, pair: Callable[[str], tuple[Path, Path]]) -> None:
    base, tuned = pair("llama")
    extract(base, tuned, tmp_path / "out", rank="1,2", format="gguf", threads=1)
    for rank in (1, 2):
        assert names_in(tmp_path / f"out-r{rank}") == FILES["gguf"]
        reader = gguf.GGUFReader(tmp_path / f"out-r{rank}" / "adapter.gguf")
        assert {min(map(int, info.shape)) for info in reader.tensors} == {rank}


def test_refused_before_the_work(
    tmp_path: Path, pair: Callable[[str], tuple[Path, Path]], loragraft: CommandLine
) -> None:
    base, tuned = (copied(path, tmp_path) for path in pair("llama"))
    for side in (base, tuned):
        edit_config(side, model_type="cohere")
    for more in ((), ("--dry-run",)):
        answer = loragraft("extract", base, tuned, "-o", tmp_path / "o", "--format", "gguf", *more)
        assert answer.code == 4
        assert "'cohere' is not proven with llama.cpp" in answer.error
    with pytest.raises(MismatchError):
        extract(base, tuned, tmp_path / "o", format="both")
    assert not (tmp_path / "o").exists()
    assert loragraft("extract", base, tuned, "--format", "onnx").code == 2


def copied(path: Path, into: Path) -> Path:
    return shutil.copytree(path, into / path.name)


def test_an_embedding_that_is_the_head_too(
    tmp_path: Path, pair: Callable[[str], tuple[Path, Path]]
) -> None:
    base, tuned = copies(tmp_path, pair("llama, tied"))
    change(tuned, "model.embed_tokens.weight")
    for chosen in ("embed_tokens", "q_proj,embed_tokens"):
        with pytest.raises(UsageError, match=r"model\.embed_tokens shares its weight"):
            extract(base, tuned, tmp_path / "out", target_modules=chosen, format="gguf")
    assert not (tmp_path / "out").exists()


def test_an_embedding_of_its_own(tmp_path: Path, pair: Callable[[str], tuple[Path, Path]]) -> None:
    base, tuned = copies(tmp_path, pair("llama"))
    delta = change(tuned, "model.embed_tokens.weight")
    out = tmp_path / "out"
    extract(base, tuned, out, rank=2, target_modules="embed_tokens", format="gguf", threads=1)
    (found,) = applied(out / "adapter.gguf").values()
    # Of rank one; the factors are rounded to fp16.
    np.testing.assert_allclose(found, delta, atol=2e-3 * abs(delta).max())


def change(directory: Path, name: str) -> Array:
    """Change a column of a tensor."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    before = tensors[name].clone()
    tensors[name][..., 3] += 0.1
    save_file(tensors, path, metadata={"format": "pt"})
    delta: Array = (tensors[name] - before).numpy()
    return delta


@pytest.mark.parametrize("form", ["gguf", "both"])
def test_what_llama_cpp_has_no_place_for(
    tmp_path: Path, pair: Callable[[str], tuple[Path, Path]], form: str
) -> None:
    base, tuned = copies(tmp_path, pair("llama"))
    for name in ("model.norm.weight", "model.layers.1.input_layernorm.weight"):
        change(tuned, name)
    out = tmp_path / "out"
    result = extract(base, tuned, out, rank=2, save_whole="norms", format=form, threads=1)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    left = report["gguf"]["left_out"]
    # PEFT saves modules by the end of their names: both blocks' norms.
    assert len(left) == 3
    assert set(left.values()) == {"llama.cpp's adapters hold factors alone"}
    told = [text for text in result.report.summary.warnings if "adapter.gguf leaves out" in text]
    assert len(told) == 1
    assert "and 2 others" in told[0]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "That file lacks 3 modules" in card
    assert names_in(out) == FILES[form]


def copies(tmp_path: Path, paths: tuple[Path, Path]) -> tuple[Path, Path]:
    return copied(paths[0], tmp_path), copied(paths[1], tmp_path)


@pytest.mark.parametrize("case", ["llama", "qwen3_moe", "gpt_oss"])
def test_two_gguf_files(
    tmp_path: Path, pair: Callable[[str], tuple[Path, Path]], case: str
) -> None:
    """The adapter is that of the safetensors files; so is what verify says of it."""
    sides = pair(case)
    stored = [models.write(tmp_path / f"{path.name}.gguf", models.read(path)) for path in sides]
    # Gate and up of an expert, of rank 2 each, are one matrix.
    rank = 4 if case == "qwen3_moe" else 2
    options: dict[str, Any] = {"rank": rank, "dtype": "fp32", "threads": 1}
    extract(*sides, tmp_path / "plain", **options)
    wanted = changes_of(tmp_path / "plain", sides[0])
    for number, (one, other) in enumerate(
        ((stored[0], stored[1]), (stored[0], sides[1]), (sides[0], stored[1]))
    ):
        out = tmp_path / f"{number}"
        result = extract(one, other, out, **options)
        assert result.report.summary.counts["adapted"] >= 8
        found = changes_of(out, sides[0])
        assert found.keys() == wanted.keys()
        for name, values in found.items():
            # Both are the planted change, to the rounding of its weights: 2^-24 of about 1.
            np.testing.assert_allclose(values, wanted[name], atol=2e-6, err_msg=name)
        same = [load_file(path / "adapter_model.safetensors") for path in (tmp_path / "plain", out)]
        assert same[0].keys() == same[1].keys()
        for name, factor in same[0].items():
            # What lies in both files the same way is factored to the same bytes.
            if "o_proj" in name or "v_proj" in name:
                assert torch.equal(factor, same[1][name]), name
        assert verify(one, other, out).summary.error < 1e-4
        assert verify(*sides, out).summary.error < 1e-4


def test_q8_rounding_is_told(tmp_path: Path, pair: Callable[[str], tuple[Path, Path]]) -> None:
    """The floor is the expected rounding of TUNED: within a few percent of what there is."""
    sides = pair("llama")
    sources = [models.read(path) for path in sides]
    stored = [
        models.write(tmp_path / f"{n}.gguf", source, dtype="Q8_0")
        for n, source in enumerate(sources)
    ]
    result = extract(stored[0], stored[1], tmp_path / "out", rank=2, threads=1)
    warnings = " ".join(result.report.summary.warnings)
    assert "BASE and TUNED are stored in Q8_0" in warnings
    assert "rounding_floor" in warnings
    mixed = extract(sides[0], stored[1], tmp_path / "mixed", rank=2, threads=1)
    assert "TUNED is stored in Q8_0" in " ".join(mixed.report.summary.warnings)
    for module in mixed.report.modules:
        weight = sources[1].tensors[f"{module.name}.weight"]
        kind = gguf.GGMLQuantizationType.Q8_0
        back = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
        change = back.astype(np.float64) - sources[0].tensors[f"{module.name}.weight"]
        noise = np.linalg.norm(back.astype(np.float64) - weight) / np.linalg.norm(change)
        assert module.rounding_floor == pytest.approx(noise, rel=0.05), module.name
    assert verify(*stored, tmp_path / "out").summary.error < 1.0


@pytest.mark.parametrize("name", ["blk.1.attn_v.weight", "blk.1.attn_q.weight"])
@pytest.mark.parametrize("bits", [0x7E00, 0x7C00, 0xFC00], ids=["nan", "inf", "-inf"])
def test_broken_scales(
    tmp_path: Path, pair: Callable[[str], tuple[Path, Path]], loragraft: CommandLine,
    name: str, bits: int,
) -> None:  # fmt: skip
    """Told with the tensor and the place in the model's own order of rows."""
    base, tuned = pair("llama")

    def store(tensor: str, values: Array) -> tuple[Array, Any]:
        raw, kind = models.in_dtype("Q8_0")(tensor, values)
        if tensor == name:
            # The second block of the file's row 5; its codes but one are zero or not, no matter.
            raw[5, 34:36] = np.array([bits], np.uint16).view(np.uint8)
            raw[5, 36:68] = 1
        return raw, kind

    broken = models.write(tmp_path / "broken.gguf", models.read(tuned), store=store)
    answer = loragraft("extract", base, broken, "-o", tmp_path / "out", "--rank", "2")
    assert answer.code == 6
    # Row 5 of a file of heads of 16 is the odd half of pair 2: row 8 + 2.
    row = 10 if "attn_q" in name else 5
    module = "q_proj" if "attn_q" in name else "v_proj"
    assert f"model.layers.1.self_attn.{module}" in answer.error
    assert f"({row}, 32)" in answer.error or f"[{row}, 32]" in answer.error, answer.error
    assert not (tmp_path / "out").exists()
