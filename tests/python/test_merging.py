"""`merge` against PEFT, byte for byte where bytes are promised, and when things go wrong."""

from __future__ import annotations

import errno
import json
import math
import os
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import lora_files as files
import tiny_models
from loragraft.errors import FormatError, MismatchError, NonFiniteError, UsageError
from loragraft.merging import merge
from loragraft.safetensors_header import read_header
from loragraft.verification import verify

if TYPE_CHECKING:
    from pathlib import Path

RANK = 4
UNIT = 2.0**-24
ADAPTED = (files.Q0, files.K1, files.DOWN0)
DiskUsage = namedtuple("DiskUsage", ["total", "used", "free"])


def _toy(tmp_path: Path, *, shards: int = 1, dtype: str = "BF16") -> dict[str, Any]:
    weights = files.random_weights(dtype=dtype)
    factors = files.random_factors(ADAPTED, RANK)
    return {
        "weights": weights,
        "factors": factors,
        "base": files.write_checkpoint(tmp_path / "base", weights, shards=shards),
        "adapter": files.write_adapter(tmp_path / "adapter", factors, alpha=2 * RANK),
        "out": tmp_path / "out",
    }


def _peft_adapter(base: Path, out: Path, **options: Any) -> Path:
    """An adapter with random factors, made and saved by PEFT."""
    config = LoraConfig(
        r=RANK, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM", **options
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn_like(parameter)
    model.save_pretrained(out)
    return out


def _largest_product(adapter: Path, scaling: float) -> float:
    """The largest entry of scaling·|B|·|A| over all modules."""
    tensors = tiny_models.read_tensors(adapter)
    return max(
        scaling * (tensors[key.replace("lora_A", "lora_B")].abs() @ a.abs()).max().item()
        for key, a in tensors.items()
        if "lora_A" in key
    )


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("rslora", [False, True])
def test_merge_equals_peft(tmp_path: Path, family: str, rslora: bool) -> None:
    base = tiny_models.build(family, tmp_path / "base", seed=1, dtype="fp32")
    adapter = _peft_adapter(base, tmp_path / "adapter", use_rslora=rslora)
    result = merge(base, adapter, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    merged = AutoModelForCausalLM.from_pretrained(result.output, dtype=torch.float32).state_dict()
    assert merged.keys() == expected.keys()
    before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    changed = [name for name in before if not torch.equal(before[name], expected[name])]
    # Either side's product is within (r + 2)·u·|s|·|B|·|A|; adding it to W rounds once more.
    product = _largest_product(adapter, 6 / RANK**0.5 if rslora else 6 / RANK)
    for name in changed:
        bound = 2 * UNIT * ((RANK + 2) * product + expected[name].abs())
        assert ((merged[name] - expected[name]).abs() <= bound).all(), name
    for name in set(expected) - set(changed):
        assert torch.equal(merged[name], expected[name]), name
    tied = model.config.tie_word_embeddings
    assert result.modules == len(changed)
    assert result.tensors == len(expected) - int(tied)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_one_rounding_to_the_stored_dtype(tmp_path: Path, dtype: str) -> None:
    toy = _toy(tmp_path, dtype=dtype)
    result = merge(toy["base"], toy["adapter"], toy["out"])
    expected = files.add_delta(toy["weights"], toy["factors"], scaling=2.0, dtype=dtype)
    merged = files.read_checkpoint(toy["out"])
    assert merged.keys() == expected.keys()
    for name, array in expected.items():
        assert merged[name].dtype == array.dtype
        assert merged[name].tobytes() == array.tobytes(), name
    assert (result.modules, result.tensors) == (len(ADAPTED), len(expected))
    assert result.bytes_written == (toy["out"] / "model.safetensors").stat().st_size


def test_verify_calls_the_result_bit_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loragraft.adapter.delta.slabs.__defaults__", (4 * 24 * 5,))
    toy = _toy(tmp_path)
    merge(toy["base"], toy["adapter"], toy["out"])
    report = verify(toy["base"], toy["out"], toy["adapter"])
    assert report.summary.bit_exact == 1.0
    assert report.summary.counts["adapted"] == len(ADAPTED)
    assert report.summary.counts["unchanged"] == len(toy["weights"]) - len(ADAPTED)


def test_shards_index_order_and_metadata_stay(tmp_path: Path) -> None:
    toy = _toy(tmp_path, shards=3)
    merge(toy["base"], toy["adapter"], toy["out"])
    index = "model.safetensors.index.json"
    assert (toy["out"] / index).read_bytes() == (toy["base"] / index).read_bytes()
    names = {path.name for path in toy["base"].iterdir()}
    assert {path.name for path in toy["out"].iterdir()} == names
    changed = {f"{name}.weight" for name in ADAPTED}
    for shard in sorted(toy["base"].glob("*.safetensors")):
        before, after = read_header(shard), read_header(toy["out"] / shard.name)
        assert list(before.tensors) == list(after.tensors)
        assert before.metadata == after.metadata
        old, new = shard.read_bytes(), (toy["out"] / shard.name).read_bytes()
        for name, extent in before.tensors.items():
            moved = after.tensors[name]
            assert extent.begin - before.data_start == moved.begin - after.data_start
            same = old[extent.begin : extent.end] == new[moved.begin : moved.end]
            assert same == (name not in changed)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    toy = _toy(tmp_path, shards=2)
    merge(toy["base"], toy["adapter"], toy["out"])
    merge(toy["base"], toy["adapter"], tmp_path / "again")
    for path in toy["out"].iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_tensors_of_other_formats_are_copied(tmp_path: Path) -> None:
    toy = _toy(tmp_path)
    more = {
        "mask": np.array([True, False, True]),
        "ids": np.arange(5, dtype=np.int64),
        "scale": np.array(1.5, np.float32),
        "odd": np.ones((3, 0, 2), np.float16),
        "tiny": np.array([1.0, -2.0], ml_dtypes.float8_e4m3fn),
        "causal": np.array([0.0, -np.inf], np.float32),
    }
    base = files.write_checkpoint(tmp_path / "more", {**toy["weights"], **more})
    for dtype in (None, "fp16"):
        out = tmp_path / f"out-{dtype}"
        merge(base, toy["adapter"], out, dtype=dtype)
        merged = tiny_models.read_tensors(out)
        for name in ("mask", "ids", "odd", "tiny"):
            assert merged[name].shape == more[name].shape
            assert merged[name].dtype == tiny_models.read_tensors(base)[name].dtype
        assert torch.equal(merged["mask"], torch.tensor([True, False, True]))
        assert torch.equal(merged["ids"], torch.arange(5))
        assert merged["tiny"].float().tolist() == [1.0, -2.0]
        assert merged["causal"].tolist() == [0.0, -math.inf]
    assert merged["scale"].item() == 1.5
    assert merged["scale"].dtype == torch.float16


@pytest.mark.parametrize(
    ("dtype", "code", "torch_name"),
    [("fp32", "F32", "float32"), ("fp16", "F16", "float16"), ("BF16", "BF16", "bfloat16")],
)
def test_another_dtype(tmp_path: Path, dtype: str, code: str, torch_name: str) -> None:
    toy = _toy(tmp_path, shards=2)
    merge(toy["base"], toy["adapter"], toy["out"], dtype=dtype)
    wide = {name: array.astype(np.float32) for name, array in toy["weights"].items()}
    expected = files.add_delta(wide, toy["factors"], scaling=2.0, dtype="F32")
    merged = files.read_checkpoint(toy["out"])
    for name, array in expected.items():
        assert merged[name].tobytes() == array.astype(files.NUMPY_DTYPES[code]).tobytes()
    config = json.loads((toy["out"] / "config.json").read_text(encoding="utf-8"))
    assert config == {**files.CONFIG, "torch_dtype": torch_name}
    index = json.loads((toy["out"] / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in merged.values())


def test_small_files_come_along(tmp_path: Path) -> None:
    toy = _toy(tmp_path)
    kept = (
        "tokenizer.json",
        "tokenizer.model",
        "generation_config.json",
        "chat_template.jinja",
        "merges.txt",
        "odd_settings.json",
    )
    for name in (*kept, "report.json", "README.md", "pytorch_model.bin"):
        (toy["base"] / name).write_bytes(name.encode())
    merge(toy["base"], toy["adapter"], toy["out"])
    expected = {*kept, "config.json", "model.safetensors"}
    assert {path.name for path in toy["out"].iterdir()} == expected
    assert (toy["out"] / "merges.txt").read_bytes() == b"merges.txt"
    # Of a single file's directory, only what belongs to a model.
    merge(toy["base"] / "model.safetensors", toy["adapter"], tmp_path / "single")
    found = {path.name for path in (tmp_path / "single").iterdir()}
    assert found == expected - {"odd_settings.json"}


def test_config_is_written_last(tmp_path: Path) -> None:
    toy = _toy(tmp_path, shards=2)
    (toy["base"] / "tokenizer.json").write_text("{}", encoding="utf-8")
    merge(toy["base"], toy["adapter"], toy["out"])
    times = {path.name: path.stat().st_mtime_ns for path in toy["out"].iterdir()}
    assert max(times.values()) == times.pop("config.json")
    shards = [time for name, time in times.items() if name.endswith(".safetensors")]
    assert max(shards) <= times["model.safetensors.index.json"]


def test_output_in_use(tmp_path: Path) -> None:
    toy = _toy(tmp_path)
    toy["out"].mkdir()
    (toy["out"] / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty") as caught:
        merge(toy["base"], toy["adapter"], toy["out"])
    assert caught.value.exit_code == 2
    assert [path.name for path in toy["out"].iterdir()] == ["notes.txt"]
    for taken in (toy["base"], toy["adapter"], toy["base"] / ".." / "base"):
        with pytest.raises(UsageError, match="is an input"):
            merge(toy["base"], toy["adapter"], taken, force=True)
    with pytest.raises(UsageError, match="no directory"):
        merge(toy["base"], toy["adapter"], toy["out"] / "notes.txt", force=True)


def test_force_replaces_a_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    toy = _toy(tmp_path)
    files.write_checkpoint(toy["out"], toy["weights"], shards=3)
    (toy["out"] / "notes.txt").write_text("mine", encoding="utf-8")
    merge(toy["base"], toy["adapter"], toy["out"], force=True)
    names = {path.name for path in toy["out"].iterdir()}
    assert names == {"model.safetensors", "config.json", "notes.txt"}


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    toy = _toy(tmp_path)
    toy["out"].mkdir()
    merge(toy["base"], toy["adapter"], toy["out"])
    merge(toy["base"], toy["adapter"], tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "config.json").is_file()


def test_full_disk_is_known_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = _toy(tmp_path)
    size = (toy["base"] / "model.safetensors").stat().st_size
    monkeypatch.setattr("shutil.disk_usage", lambda _: DiskUsage(size, 1, size - 1))
    with pytest.raises(FormatError, match=r"out: needs .* kB, but .* kB are free") as caught:
        merge(toy["base"], toy["adapter"], toy["out"])
    assert caught.value.exit_code == 3
    assert not toy["out"].exists()


@pytest.mark.parametrize("name", [f"{files.DOWN0}.weight", f"{files.K1}.weight"])
def test_one_nan_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    toy = _toy(tmp_path)
    weights = dict(toy["weights"])
    weights[name] = weights[name].copy()
    weights[name].flat[7] = np.nan
    base = files.write_checkpoint(tmp_path / "broken", weights, shards=3)
    with pytest.raises(NonFiniteError, match=name) as caught:
        merge(base, toy["adapter"], tmp_path / "deep" / "out")
    assert caught.value.exit_code == 6
    assert not (tmp_path / "deep").exists()


def test_overflow_of_the_stored_dtype(tmp_path: Path) -> None:
    weights = files.random_weights(dtype="BF16")
    weights["model.norm.weight"][3] = 1e5
    toy = _toy(tmp_path)
    base = files.write_checkpoint(tmp_path / "large", weights)
    with pytest.raises(NonFiniteError, match=r"model\.norm\.weight holds .*overflows F16"):
        merge(base, toy["adapter"], toy["out"], dtype="fp16")
    b, a = toy["factors"][files.Q0]
    huge = files.write_adapter(tmp_path / "huge", {files.Q0: (b * 1e6, a * 1e6)})
    with pytest.raises(NonFiniteError, match=r"q_proj\.weight: with the adapter.*overflows F16"):
        merge(toy["base"], huge, toy["out"], dtype="fp16")


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    toy = _toy(tmp_path, shards=3)

    def stop(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(toy["base"], toy["adapter"], toy["out"], progress=stop)
    assert not toy["out"].exists()


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    toy = _toy(tmp_path, shards=2)
    calls: list[tuple[str, int, int]] = []
    merge(toy["base"], toy["adapter"], toy["out"], progress=lambda *call: calls.append(call))
    assert {name for name, _, _ in calls} == toy["weights"].keys()
    total = sum(array.nbytes for array in toy["weights"].values())
    assert calls[-1][1:] == (total, total)


def test_whole_saved_modules_are_refused_by_name(tmp_path: Path) -> None:
    toy = _toy(tmp_path)
    key = "base_model.model.model.norm.weight"
    more = {key: np.ones(24, np.float32)}
    adapter = files.write_adapter(tmp_path / "more", toy["factors"], more=more)
    with pytest.raises(MismatchError, match=key) as caught:
        merge(toy["base"], adapter, toy["out"])
    assert caught.value.exit_code == 4
    assert not toy["out"].exists()


def test_adapter_of_another_model(tmp_path: Path) -> None:
    toy = _toy(tmp_path)
    b, a = toy["factors"][files.Q0]
    names = {f"model.layers.{layer}.self_attn.q_proj": (b, a) for layer in range(9)}
    adapter = files.write_adapter(tmp_path / "deeper", names)
    with pytest.raises(MismatchError, match=r"7 of the 9 modules.*layers\.2.*and 4 more") as caught:
        merge(toy["base"], adapter, toy["out"])
    assert caught.value.exit_code == 4


def test_unknown_dtype(tmp_path: Path) -> None:
    toy = _toy(tmp_path)
    with pytest.raises(UsageError, match="int8"):
        merge(toy["base"], toy["adapter"], toy["out"], dtype="int8")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = _toy(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="cannot be made"):
        merge(toy["base"], toy["adapter"], tmp_path / "file" / "out")

    # Root may write anywhere, so the refusal is made rather than provoked.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(FormatError, match=r"cannot be made: [Pp]ermission denied"):
        merge(toy["base"], toy["adapter"], tmp_path / "locked" / "out")
    assert not (tmp_path / "locked").exists()
