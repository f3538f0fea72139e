"""`export` between PEFT's layouts and from GGUF: the same changes, and the real PEFT loads them."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

import gguf_models as models
import llama_models
import mixed_adapters as mixed
from loragraft.adapter.delta import DeltaReader
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.placement import place_adapter
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import MismatchError, NonFiniteError, UsageError
from loragraft.exporting import export
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Array = np.ndarray[Any, Any]

UNIT = 2.0**-24
# PEFT 0.21 asks transformers 5.23 by the old name; it has nothing to do with the adapter.
DEPRECATED = "`is_gradient_checkpointing` is deprecated"


def changes_of(adapter: Path, base: Path) -> dict[str, Array]:
    """Tensor of the base's files -> its change in float64, whatever the layout."""
    checkpoint = open_checkpoint(base)
    placed = place_adapter(read_adapter(adapter), checkpoint)
    found = {}
    with TensorReader() as reader:
        factors = DeltaReader(reader)
        for one in placed.placements:
            deltas = [
                factors.delta(one, expert, transposed=False)
                for expert in range(max(1, one.linear.experts))
            ]
            found[one.linear.name] = np.stack(
                [d.scaling * (d.left.astype(np.float64) @ d.right) for d in deltas]
            )
    assert checkpoint.config is not None
    return mixed.as_files(found, checkpoint.config["model_type"])


def check_same(one: dict[str, Array], other: dict[str, Array]) -> None:
    """Factors are those that were there, times a scaling at most: twice a rounding of B.

    Entries of |B|·|A| are below 5 here, with a margin of five.
    """
    for name in one.keys() | other.keys():
        left = one.get(name, np.zeros(()))
        np.testing.assert_allclose(left, other.get(name, np.zeros(())), atol=50 * UNIT)


@pytest.mark.parametrize("case", [case for case in llama_models.CASES if "tied" not in case])
def test_there_and_back(tmp_path: Path, built: Callable[[str], Path], case: str) -> None:
    base = built(case)
    mixed.write(tmp_path / "adapter", base, mixed.modules_of(base))
    export(tmp_path / "adapter", tmp_path / "a.gguf", base=base)
    result = export(tmp_path / "a.gguf", tmp_path / "back", base=base, format="peft")
    assert (result.format, result.alpha, result.left_out) == ("peft", None, {})
    check_same(changes_of(tmp_path / "adapter", base), changes_of(tmp_path / "back", base))
    names = {path.name for path in (tmp_path / "back").iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    # And once more: nothing is folded a second time.
    export(tmp_path / "back", tmp_path / "b.gguf", base=base)
    export(tmp_path / "b.gguf", tmp_path / "again", base=base, format="peft")
    check_same(changes_of(tmp_path / "back", base), changes_of(tmp_path / "again", base))


@pytest.mark.parametrize("case", ["qwen3_moe", "mixtral", "gpt_oss", "qwen3_5_moe_text"])
def test_between_layouts(tmp_path: Path, built: Callable[[str], Path], case: str) -> None:
    base = built(case)
    mixed.write(tmp_path / "peft", base, mixed.modules_of(base), dtype="F16")
    wanted = changes_of(tmp_path / "peft", base)
    source = tmp_path / "peft"
    steps = ["peft-legacy", "peft"] if case == "gpt_oss" else ["per-expert", "peft-legacy", "peft"]
    for number, layout in enumerate(steps):
        out = tmp_path / f"{number}"
        result = export(source, out, base=base, format=layout)
        assert set(result.dtypes) <= {"F16", "F32"}
        check_same(wanted, changes_of(out, base))
        source = out


@pytest.mark.parametrize("case", ["llama", "qwen3_moe", "mixtral", "gpt_oss"])
def test_the_real_peft_loads_it(tmp_path: Path, built: Callable[[str], Path], case: str) -> None:
    """Without a warning; the logits are those of the adapter that it was made of."""
    base = built(case)
    linears = [one for one in mixed.modules_of(base) if not one.address.embedding]
    mixed.write(
        tmp_path / "adapter", base, linears, rank=lambda _: 3, scaling=lambda _: 0.5, dtype="F32"
    )
    export(tmp_path / "adapter", tmp_path / "a.gguf", base=base)
    export(tmp_path / "a.gguf", tmp_path / "back", base=base, format="peft")
    before, after = logits(base, tmp_path / "adapter"), logits(base, tmp_path / "back")
    plain = logits(base, None)
    change = (before - plain).abs().max()
    assert change > 0.01
    # Sums of up to 96 products in another order, through two blocks.
    assert (before - after).abs().max() < 2e-5 * max(1.0, float(before.abs().max()))


def logits(base: Path, adapter: Path | None) -> torch.Tensor:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    model = getattr(transformers, config["architectures"][0]).from_pretrained(base).eval()
    if adapter is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=DEPRECATED)
            model = PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(3, 19)[None]).logits
    return found


def test_single_experts_that_are_missing(tmp_path: Path, built: Callable[[str], Path]) -> None:
    """Gate and up of other ranks, one of them alone, none at all; in one parameter afterwards."""
    base = built("qwen3_moe")
    linears = [one for one in mixed.modules_of(base, "per-expert") if ".experts." in one.name]
    kept = [one for number, one in enumerate(linears) if number % 5]
    mixed.write(tmp_path / "adapter", base, kept, layout="per-expert")
    result = export(tmp_path / "adapter", tmp_path / "fused", base=base, format="peft")
    assert result.folded
    check_same(changes_of(tmp_path / "adapter", base), changes_of(tmp_path / "fused", base))
    ranks = {module.rank for module in read_adapter(tmp_path / "fused").modules}
    assert max(ranks) == 8
    export(tmp_path / "adapter", tmp_path / "same", base=base, format="per-expert")
    one, two = (load_file(tmp_path / d / "adapter_model.safetensors") for d in ("adapter", "same"))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def gguf_adapter(
    path: Path, base: Path, pairs: dict[str, tuple[Array, Array]], **more: Any
) -> Path:
    """A GGUF adapter that somebody else wrote."""
    writer = gguf.GGUFWriter(path, more.get("arch", models.read(base).arch))
    writer.add_type(more.get("type", "adapter"))
    writer.add_string("adapter.type", more.get("adapter", "lora"))
    if "alpha" in more:
        writer.add_float32("adapter.lora.alpha", more["alpha"])
    kind = more.get("kind", gguf.GGMLQuantizationType.F32)
    for name, (b, a) in pairs.items():
        for end, values in (("a", a), ("b", b)):
            data = np.ascontiguousarray(values, np.float32)
            chosen = kind if values.shape[-1] % 32 == 0 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(
                f"{name}.lora_{end}", gguf.quants.quantize(data, chosen), raw_dtype=chosen
            )
    for name in more.get("norms", ()):
        writer.add_tensor(name, np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random(*shape: int) -> Array:
    return 0.3 * np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def test_gate_and_up_with_other_factors(tmp_path: Path, built: Callable[[str], Path]) -> None:
    """Each has its A: the parameter of both gets the sum of the ranks."""
    base = built("qwen3_moe")
    gate, up = (random(4, 48, 2), random(4, 2, 64)), (random(4, 48, 3), random(4, 3, 64))
    path = gguf_adapter(
        tmp_path / "a.gguf", base,
        {"blk.1.ffn_gate_exps.weight": gate, "blk.1.ffn_up_exps.weight": up}, alpha=6.0,
    )  # fmt: skip
    result = export(path, tmp_path / "out", base=base, format="peft")
    assert result.modules == 1
    (module,) = read_adapter(tmp_path / "out").modules
    assert (module.rank, module.scaling) == (5, 1.0)
    found = changes_of(tmp_path / "out", base)
    for expert in range(4):
        for kind, (b, a), scale in (("gate", gate, 3.0), ("up", up, 2.0)):
            name = f"model.layers.1.mlp.experts.{expert}.{kind}_proj.weight"
            np.testing.assert_allclose(found[name], scale * (b[expert] @ a[expert]), atol=1e-5)


@pytest.mark.parametrize("alpha", [None, 0.0, 4.0, -4.0])
def test_alpha_of_a_gguf(tmp_path: Path, built: Callable[[str], Path], alpha: float | None) -> None:
    base = built("qwen2")
    b, a = random(64, 2), random(2, 64)
    more = {} if alpha is None else {"alpha": alpha}
    path = gguf_adapter(tmp_path / "a.gguf", base, {"blk.0.attn_q.weight": (b, a)}, **more)
    export(path, tmp_path / "out", base=base, format="peft")
    (found,) = changes_of(tmp_path / "out", base).values()
    np.testing.assert_allclose(found, (alpha / 2 if alpha else 1.0) * (b @ a), atol=1e-5)


def test_quantised_factors(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("llama")
    b, a = random(64, 32), random(32, 64)
    kind = gguf.GGMLQuantizationType.Q8_0
    path = gguf_adapter(tmp_path / "a.gguf", base, {"blk.0.attn_v.weight": (b[:32], a)}, kind=kind)
    result = export(path, tmp_path / "out", base=base, format="peft")
    assert result.dtypes == {"F32": 1}
    (found,) = changes_of(tmp_path / "out", base).values()
    back = [gguf.quants.dequantize(gguf.quants.quantize(v, kind), kind) for v in (b[:32], a)]
    np.testing.assert_allclose(found, back[0].astype(np.float64) @ back[1], atol=1e-12)


def test_what_the_base_does_not_have_is_told(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("qwen2")
    pairs = {
        "blk.0.attn_q.weight": (random(64, 2), random(2, 64)),
        "blk.9.attn_q.weight": (random(64, 2), random(2, 64)),
        "blk.0.ffn_gate_exps.weight": (random(4, 96, 2), random(4, 2, 64)),
        "blk.0.attn_k.weight": (random(2, 32, 2), random(2, 2, 64)),
    }
    norm = "blk.0.attn_norm.weight"
    path = gguf_adapter(tmp_path / "a.gguf", base, pairs, norms=[norm])
    with pytest.raises(MismatchError, match="and 3 more cannot be written"):
        export(path, tmp_path / "out", base=base, format="peft")
    assert not (tmp_path / "out").exists()
    result = export(path, tmp_path / "out", base=base, format="peft", skip_unsupported=True)
    assert set(result.left_out) == {norm, *list(pairs)[1:]}
    assert result.modules == 1


@pytest.mark.parametrize(
    ("name", "b", "a"),
    [
        ("blk.0.attn_q.weight", (32, 2), (2, 64)),
        ("blk.0.attn_q.weight", (64, 2), (2, 32)),
        ("blk.0.ffn_gate_exps.weight", (4, 40, 2), (4, 2, 64)),
        ("blk.0.ffn_gate_exps.weight", (4, 48, 2), (4, 2, 32)),
        ("blk.0.ffn_gate_exps.weight", (3, 48, 2), (3, 2, 64)),
        ("blk.0.ffn_gate_exps.weight", (5, 48, 2), (5, 2, 64)),
        ("blk.0.ffn_gate_exps.weight", (48, 2), (2, 64)),
        ("blk.0.ffn_gate_up_exps.weight", (4, 48, 2), (4, 2, 64)),
        ("blk.0.ffn_gate_up_exps.weight", (5, 96, 2), (5, 2, 64)),
    ],
)
@pytest.mark.parametrize("layout", ["peft", "per-expert"])
def test_shapes_that_do_not_fit(
    tmp_path: Path, built: Callable[[str], Path], name: str, b: Any, a: Any, layout: str
) -> None:
    base = built("qwen3_moe")
    path = gguf_adapter(tmp_path / "a.gguf", base, {name: (random(*b), random(*a))})
    with pytest.raises(MismatchError, match=name):
        export(path, tmp_path / "out", base=base, format=layout)
    assert not (tmp_path / "out").exists()


def test_gate_and_up_in_one_pair(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("qwen3_moe")
    b, a = random(4, 96, 2), random(4, 2, 64)
    path = gguf_adapter(tmp_path / "a.gguf", base, {"blk.0.ffn_gate_up_exps.weight": (b, a)})
    export(path, tmp_path / "out", base=base, format="peft")
    assert read_adapter(tmp_path / "out").modules[0].rank == 2
    found = changes_of(tmp_path / "out", base)
    for expert in range(4):
        both = [
            found[f"model.layers.0.mlp.experts.{expert}.{k}_proj.weight"] for k in ("gate", "up")
        ]
        np.testing.assert_allclose(np.concatenate(both), b[expert] @ a[expert], atol=1e-5)


def test_broken_factors_of_a_gguf(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("qwen2")
    b = random(64, 2)
    b[3, 1] = np.nan
    path = gguf_adapter(tmp_path / "a.gguf", base, {"blk.0.attn_q.weight": (b, random(2, 64))})
    with pytest.raises(NonFiniteError, match=r"blk\.0\.attn_q\.weight\.lora_b holds NaN"):
        export(path, tmp_path / "out", base=base, format="peft")
    assert not (tmp_path / "out").exists()


def test_half_precision_overflows(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("qwen2")
    pairs = {"blk.0.attn_q.weight": (1e6 * random(64, 2), random(2, 64))}
    path = gguf_adapter(tmp_path / "a.gguf", base, pairs)
    with pytest.raises(MismatchError, match=r"q_proj' is too large for fp16"):
        export(path, tmp_path / "out", base=base, format="peft", dtype="fp16")
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_replaced(tmp_path: Path, built: Callable[[str], Path]) -> None:
    (tmp_path / "models").mkdir()
    base = models.write(tmp_path / "models" / "base.gguf", models.read(built("llama")))
    adapter = tmp_path / "adapter"
    linears = [one for one in mixed.modules_of(built("llama")) if "q_proj" in one.name]
    mixed.write(adapter, built("llama"), linears)
    with pytest.raises(UsageError, match="is the base"):
        export(adapter, base, base=base, force=True)
    export(adapter, tmp_path / "g" / "a.gguf", base=base)
    for out in (tmp_path / "g", tmp_path / "models"):
        with pytest.raises(UsageError, match="is an input too"):
            export(tmp_path / "g" / "a.gguf", out, base=base, format="peft", force=True)
    with pytest.raises(UsageError, match="is an input too"):
        export(adapter, adapter, base=base, force=True)


def test_force_leaves_nothing_of_another_format(
    tmp_path: Path, built: Callable[[str], Path]
) -> None:
    base, out = built("llama"), tmp_path / "out"
    linears = [one for one in mixed.modules_of(base) if "q_proj" in one.name]
    mixed.write(tmp_path / "adapter", base, linears)
    export(tmp_path / "adapter", out, base=base, format="peft")
    (out / "report.json").write_text("{}")
    with pytest.raises(UsageError, match="--force"):
        export(tmp_path / "adapter", out, base=base)
    export(tmp_path / "adapter", out, base=base, force=True)
    assert {path.name for path in out.iterdir()} == {"adapter.gguf"}
    export(tmp_path / "adapter", out, base=base, format="peft", force=True)
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in out.iterdir()} == names


@pytest.mark.parametrize("kind", ["directory", "file", "gguf", "skeleton"])
def test_every_kind_of_base(tmp_path: Path, built: Callable[[str], Path], kind: str) -> None:
    """Names and shapes alone: the same bytes, whatever the base is stored as."""
    directory = built("qwen3_moe")
    mixed.write(tmp_path / "adapter", directory, mixed.modules_of(directory))
    export(tmp_path / "adapter", tmp_path / "wanted.gguf", base=directory)
    base = {
        "directory": directory,
        "file": directory / "model.safetensors",
    }.get(kind, tmp_path / "base.gguf")
    if base.suffix == ".gguf":
        coarse = in_k_quants if kind == "skeleton" else None
        models.write(base, models.read(directory), store=coarse)
    export(tmp_path / "adapter", tmp_path / "out.gguf", base=base)
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "wanted.gguf").read_bytes()
    export(tmp_path / "out.gguf", tmp_path / "back", base=base, format="peft")
    check_same(
        changes_of(tmp_path / "adapter", directory), changes_of(tmp_path / "back", directory)
    )


def in_k_quants(name: str, values: Array) -> tuple[Array, Any]:
    """Q4_0 of zeros where a row has whole blocks: no weight of it is read."""
    kind = gguf.GGMLQuantizationType.Q4_0
    if values.ndim < 2 or values.shape[-1] % 32:
        return values, gguf.GGMLQuantizationType.F32
    return np.zeros((*values.shape[:-1], values.shape[-1] // 32 * 18), np.uint8), kind


def test_whole_tensors_are_left_out_and_told(tmp_path: Path, built: Callable[[str], Path]) -> None:
    base = built("qwen3_moe")
    mixed.write(tmp_path / "adapter", base, mixed.modules_of(base))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    key = "base_model.model.model.norm.weight"
    save_file(load_file(path) | {key: torch.ones(64)}, path, metadata={"format": "pt"})
    config = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) | {"modules_to_save": ["norm"]}
    config.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(MismatchError, match="only factors"):
        export(tmp_path / "adapter", tmp_path / "out", base=base, format="per-expert")
    result = export(
        tmp_path / "adapter", tmp_path / "out", base=base, format="per-expert",
        skip_unsupported=True,
    )  # fmt: skip
    assert result.left_out == {key: "only factors are laid out anew"}
