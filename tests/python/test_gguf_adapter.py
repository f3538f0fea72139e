"""GGUF adapters: what llama.cpp would make of the file, by its own rule, is what PEFT's says."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import gguf_models as models
import llama_models
import mixed_adapters as mixed
import tiny_models
from loragraft.errors import (
    MismatchError,
    NonFiniteError,
    NothingToAdaptError,
)
from loragraft.exporting import export

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mixed_adapters import Change

    Array = np.ndarray[Any, Any]

#: Unit roundoffs.
UNITS = {"F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
NAMES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


def floats(info: Any) -> Array:
    """A tensor of a GGUF in float64, rows last but one."""
    values = gguf.quants.dequantize(info.data, info.tensor_type)
    return values.astype(np.float64).reshape([int(n) for n in info.shape[::-1]])


def applied(path: Path) -> dict[str, Array]:
    """Weight -> its change: user scale 1, alpha / rank where alpha is not 0, else 1."""
    reader = gguf.GGUFReader(path)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    tensors = {info.name: info for info in reader.tensors}
    assert all(len(name.encode()) < 64 for name in tensors)
    stems = {name.rpartition(".lora_")[0] for name in tensors}
    assert len(tensors) == 2 * len(stems)
    changes = {}
    for stem in stems:
        a, b = floats(tensors[f"{stem}.lora_a"]), floats(tensors[f"{stem}.lora_b"])
        scale = alpha / b.shape[-1] if alpha else 1.0
        product = a @ b.T if stem == "token_embd.weight" else b @ a
        changes[stem] = scale * product
    return changes


def expected(base: Path, changes: dict[str, Change]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The same from the PEFT files, in llama.cpp's order: changes, and what roundings scale by."""
    config = models.read(base).config
    parts = []
    for field in ("delta", "size"):
        arrays = {name: getattr(change, field) for name, change in changes.items()}
        files = mixed.as_files(arrays, config["model_type"])
        parts.append(models.converted(models.Source(config, files)))
    return parts[0], parts[1]


def check(path: Path, base: Path, changes: dict[str, Change], unit: float) -> None:
    """Each factor is rounded at most once, and the scale: three roundings with second order."""
    delta, size = expected(base, changes)
    found = applied(path)
    assert found.keys() == delta.keys()
    for name, values in found.items():
        wanted = delta[name].reshape(values.shape)  # of a gate with one row, a vector
        excess = abs(values - wanted) - 3.1 * unit * size[name].reshape(values.shape)
        assert excess.max() <= 0.0, name
        assert np.abs(wanted).max() > 0.01


@pytest.mark.parametrize("case", llama_models.CASES)
def test_mixed_ranks_and_scalings(tmp_path: Path, built: Callable[[str], Path], case: str) -> None:
    base = built(case)
    changes = mixed.write(tmp_path / "adapter", base, mixed.modules_of(base))
    result = export(tmp_path / "adapter", tmp_path / "out.gguf", base=base)
    check(tmp_path / "out.gguf", base, changes, UNITS["F32"])
    assert (result.alpha, result.folded, result.left_out) == (0.0, True, {})
    assert result.bytes_written == (tmp_path / "out.gguf").stat().st_size
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    texts = {key: reader.fields[key].contents() for key in ("general.type", "adapter.type",
             "general.architecture", "general.name")}  # fmt: skip
    assert texts == {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.architecture": models.read(base).arch,
        "general.name": "adapter",
    }


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("case", ["llama", "qwen3_moe", "gpt_oss", "qwen3_5_moe_text"])
def test_one_scaling_keeps_every_number(
    tmp_path: Path, built: Callable[[str], Path], case: str, dtype: str
) -> None:
    """Alpha is scaling x rank where ranks are one, 0 where the scaling is 1: nothing is folded."""
    base = built(case)
    linears = mixed.modules_of(base)
    for number, (rank, scaling) in enumerate([(3, 2.0), (3, 1.0), (0, 1.0)]):
        ranks = (lambda _, rank=rank: rank) if rank else mixed.mixed_ranks
        adapter = tmp_path / f"a{number}"
        changes = mixed.write(
            adapter, base, linears, rank=ranks, scaling=lambda _, s=scaling: s, dtype=dtype
        )
        result = export(adapter, tmp_path / f"{number}.gguf", base=base)
        # 6 and 3 are exact, and so is everything else.
        check(tmp_path / f"{number}.gguf", base, changes, 1e-15)
        assert (result.folded, result.alpha) == (False, scaling * rank)
        assert set(result.dtypes) == {dtype}


@pytest.mark.parametrize("dtype", UNITS)
def test_a_dtype_that_is_asked_for(
    tmp_path: Path, built: Callable[[str], Path], dtype: str
) -> None:
    base = built("qwen3_moe")
    changes = mixed.write(tmp_path / "adapter", base, mixed.modules_of(base))
    result = export(tmp_path / "adapter", tmp_path / "o.gguf", base=base, dtype=NAMES[dtype])
    check(tmp_path / "o.gguf", base, changes, UNITS[dtype])
    assert set(result.dtypes) == {dtype}


@pytest.mark.parametrize("rank", [3, 0])
def test_rslora(tmp_path: Path, built: Callable[[str], Path], rank: int) -> None:
    base = built("llama")
    ranks = (lambda _: rank) if rank else mixed.mixed_ranks
    changes = mixed.write(
        tmp_path / "adapter", base, mixed.modules_of(base), rank=ranks,
        scaling=lambda _: 1.5, rslora=True,
    )  # fmt: skip
    result = export(tmp_path / "adapter", tmp_path / "out.gguf", base=base)
    assert result.folded == (not rank)
    check(tmp_path / "out.gguf", base, changes, UNITS["F32"])


@pytest.mark.parametrize("case", ["qwen3_moe", "mixtral"])
def test_single_experts_with_gaps(tmp_path: Path, built: Callable[[str], Path], case: str) -> None:
    """What is not adapted is zero; ranks differ, and the last expert has nothing."""
    base = built(case)
    linears = [one for one in mixed.modules_of(base, "per-expert") if ".experts." in one.name]
    kept = [
        one for number, one in enumerate(linears) if number % 5 and ".experts.3." not in one.name
    ]
    changes = mixed.write(tmp_path / "adapter", base, kept, layout="per-expert")
    export(tmp_path / "adapter", tmp_path / "out.gguf", base=base)
    full = {one.name: mixed.Change(*[np.zeros((1, *one.shape))] * 2) for one in linears}
    check(tmp_path / "out.gguf", base, full | changes, UNITS["F32"])


def test_legacy_layout(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("qwen3_moe")
    linears = mixed.modules_of(base, "peft-legacy")
    changes = mixed.write(tmp_path / "adapter", base, linears, layout="peft-legacy")
    export(tmp_path / "adapter", tmp_path / "out.gguf", base=base)
    check(tmp_path / "out.gguf", base, changes, UNITS["F32"])


def test_experts_in_one_tensor(tmp_path: Path, built: Callable[[str], Path]) -> None:
    """As convert_hf_to_gguf.py --fuse-gate-up-exps has them: the gate's rows first."""
    base = built("qwen3_5_moe_text")
    changes = mixed.write(tmp_path / "adapter", base, mixed.modules_of(base))
    export(tmp_path / "adapter", tmp_path / "out.gguf", base=base, fused_experts=True)
    delta, size = expected(base, changes)
    found = applied(tmp_path / "out.gguf")
    for block in range(2):
        names = [f"blk.{block}.ffn_{kind}_exps.weight" for kind in ("gate", "up")]
        wanted, scale = (np.concatenate([part[n] for n in names], 1) for part in (delta, size))
        values = found.pop(f"blk.{block}.ffn_gate_up_exps.weight")
        assert (abs(values - wanted) <= 3.1 * UNITS["F32"] * scale).all()
        for name in names:
            del delta[name]
    assert found.keys() == delta.keys()


@pytest.mark.parametrize("case", ["gpt_oss", "qwen3_moe", "mixtral", "llama"])
def test_experts_in_one_tensor_where_no_file_has_them(
    tmp_path: Path, built: Callable[[str], Path], case: str
) -> None:
    adapter = simple(tmp_path, built(case))
    with pytest.raises(MismatchError, match=r"--fused-experts: .* leave the option out"):
        export(adapter, tmp_path / "out.gguf", base=built(case), fused_experts=True)


def test_the_same_bytes_twice(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("qwen3_moe")
    mixed.write(tmp_path / "adapter", base, mixed.modules_of(base))
    files = [tmp_path / "1.gguf", tmp_path / "2.gguf"]
    for path in files:
        export(tmp_path / "adapter", path, base=base)
    assert files[0].read_bytes() == files[1].read_bytes()
    export(tmp_path / "adapter", tmp_path / "dir", base=base)
    assert (tmp_path / "dir" / "adapter.gguf").read_bytes() == files[0].read_bytes()
    assert [path.name for path in (tmp_path / "dir").iterdir()] == ["adapter.gguf"]


def edit(adapter: Path, change: Callable[[dict[str, Any]], None], **config: Any) -> None:
    """Change the files of an adapter."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config))


def simple(tmp_path: Path, base: Path, word: str = "q_proj", **options: Any) -> Path:
    linears = [one for one in mixed.modules_of(base) if word in one.name]
    mixed.write(tmp_path / "adapter", base, linears, **options)
    return tmp_path / "adapter"


def test_factors_too_large_for_half_precision(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("llama")
    adapter = simple(tmp_path, base)
    edit(adapter, lambda tensors: tensors[next(iter(tensors))].mul_(1e6))
    with pytest.raises(MismatchError, match=r"too large for fp16.*--dtype bf16") as caught:
        export(adapter, tmp_path / "out.gguf", base=base, dtype="fp16")
    assert caught.value.exit_code == 4
    assert not list(tmp_path.glob("*.gguf"))
    export(adapter, tmp_path / "out.gguf", base=base, dtype="bf16")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_factors(tmp_path: Path, built: Callable[[str], Path], value: float) -> None:
    base = built("llama")
    adapter = simple(tmp_path, base)
    edit(adapter, lambda tensors: tensors[next(iter(tensors))].view(-1)[3].fill_(value))
    with pytest.raises(NonFiniteError, match=r"tensor base_model.model.*(NaN|Inf) at"):
        export(adapter, tmp_path / "out.gguf", base=base)
    assert not list(tmp_path.glob("*.gguf"))


def test_a_scaling_that_overflows(tmp_path: Path, built: Callable[[str], Path]) -> None:
    """No infinity is ever written, in B or in alpha."""
    base = built("llama")
    for number, scalings in enumerate(((1e40, 1e40), (1e40, 1.0), (1e300, 1e300))):
        adapter = simple(
            tmp_path / str(number), base, rank=lambda _: 4, scaling=lambda n, s=scalings: s[n % 2]
        )
        out = tmp_path / f"{number}.gguf"
        with pytest.raises(MismatchError, match="too large for fp32"):
            export(adapter, out, base=base)
        assert not out.exists()


@pytest.mark.parametrize("word", ["lm_head", "model.embed_tokens"])
def test_tied_head_and_embedding(tmp_path: Path, built: Callable[[str], Path], word: str) -> None:
    untied, base = built("llama"), tmp_path / "tied"
    shutil.copytree(untied, base)
    tiny_models.edit_config(base, tie_word_embeddings=True)
    linears = [one for one in mixed.modules_of(untied) if word in one.name or "q_proj" in one.name]
    adapter = tmp_path / "adapter"
    mixed.write(adapter, untied, linears)
    with pytest.raises(MismatchError, match=rf"{word}.*one matrix.*--skip-unsupported"):
        export(adapter, tmp_path / "out.gguf", base=base)
    result = export(adapter, tmp_path / "out.gguf", base=base, skip_unsupported=True)
    assert set(result.left_out) == {word}
    assert set(applied(tmp_path / "out.gguf")) == {f"blk.{i}.attn_q.weight" for i in (0, 1)}
    only = simple(tmp_path / "only", untied, word)
    with pytest.raises(NothingToAdaptError):
        export(only, tmp_path / "none.gguf", base=base, skip_unsupported=True)
    assert not (tmp_path / "none.gguf").exists()


def test_an_embedding_of_its_own(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("llama")
    linears = [one for one in mixed.modules_of(base) if one.address.embedding]
    changes = mixed.write(tmp_path / "adapter", base, linears)
    export(tmp_path / "adapter", tmp_path / "out.gguf", base=base)
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    shapes = {info.name: tuple(map(int, info.shape)) for info in reader.tensors}
    assert shapes == {"token_embd.weight.lora_a": (2, 96), "token_embd.weight.lora_b": (2, 64)}
    (change,) = changes.values()
    found = applied(tmp_path / "out.gguf")["token_embd.weight"]
    np.testing.assert_allclose(found, change.delta[0].T, atol=1e-5)


@pytest.mark.parametrize(
    "key",
    [
        "base_model.model.model.norm.weight",
        "base_model.model.lm_head.weight",
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
    ],
)
def test_what_is_no_factor(tmp_path: Path, built: Callable[[str], Path], key: str) -> None:
    base = built("llama")
    adapter = simple(tmp_path, base)
    rows = load_file(base / "model.safetensors")["model.norm.weight"]
    config = (
        {"trainable_token_indices": {"embed_tokens": [5]}}
        if "token" in key
        else {"modules_to_save": [key.split(".")[-2]]}
    )
    edit(adapter, lambda tensors: tensors.update({key: rows[None] if "token" in key else rows}),
         **config)  # fmt: skip
    with pytest.raises(MismatchError, match=r"factors alone.*--skip-unsupported"):
        export(adapter, tmp_path / "out.gguf", base=base)
    result = export(adapter, tmp_path / "out.gguf", base=base, skip_unsupported=True)
    assert len(result.left_out) == 1
    assert len(applied(tmp_path / "out.gguf")) == 2


def test_a_family_that_is_not_proven(tmp_path: Path, built: Callable[[str], Path]) -> None:
    adapter = simple(tmp_path, built("llama"))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((built("llama") / name).read_bytes())
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    for value in ("cohere", None, ["llama"], "llama\n"):
        changed = config | {"model_type": value}
        (other / "config.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(MismatchError, match=r"not proven|no config") as caught:
            export(adapter, tmp_path / "out.gguf", base=other)
        assert str(caught.value).isprintable()
    (other / "config.json").unlink()
    with pytest.raises(MismatchError, match=r"no config\.json"):
        export(adapter, tmp_path / "out.gguf", base=other)


def test_a_base_that_does_not_fit(tmp_path: Path, built: Callable[[str], Path]) -> None:
    adapter = simple(tmp_path, built("llama"), "k_proj")
    with pytest.raises(MismatchError):
        export(adapter, tmp_path / "out.gguf", base=built("llama, no grouped heads"))


def test_odd_names_of_directories(tmp_path: Path, built: Callable[[str], Path]) -> None:
    """What the file is called comes from the directory; not every name is text."""
    base = built("llama")
    adapter = simple(tmp_path, base)
    for name in ("zwölf\n", b"\xff\xfe".decode("utf-8", "surrogateescape")):
        odd = adapter.rename(tmp_path / name)
        export(odd, tmp_path / "out.gguf", base=base, force=True)
        reader = gguf.GGUFReader(tmp_path / "out.gguf")
        assert str(reader.fields["general.name"].contents()).isprintable()
        adapter = odd
