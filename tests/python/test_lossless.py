"""Base + adapter + residual: the tuned checkpoint, whatever the two sides are."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch

import loragraft
import moe_models
import tiny_models
from lora_files import ADAPTED, DOWN0, K1, Q0, SHAPES, random_factors, write_adapter
from loragraft.architecture import Role, take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.safetensors_header import read_header
from lossless_files import Lossless, check_identical, patched, residual_of, write_pair
from test_moe_extraction import plant
from whole_files import VOCABULARY, build, tune
from whole_merges import Q, move_rows, pair_of, scale

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lora_files import Array

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
NORM = "model.norm.weight"
INDEX = "model.safetensors.index.json"


def both_ways(tmp_path: Path, **options: Any) -> Lossless:
    """Make the pair of `write_pair` an adapter with a residual, and back."""
    made = patched(*write_pair(tmp_path, **options), tmp_path / "adapter")
    check_identical(made, tmp_path / "out")
    return made


@pytest.mark.parametrize(
    ("before", "after"),
    [("BF16", "BF16"), ("F16", "F16"), ("F32", "BF16"), ("F32", "F16"), ("BF16", "F32")],
)
def test_dtypes(tmp_path: Path, before: str, after: str) -> None:
    made = both_ways(tmp_path, before=before, after=after)
    stored = made.stored()
    for name, shape in SHAPES.items():
        # Rounding all to another dtype is a change that the adapter takes up as well as it can.
        if before == after:
            changed = name.removesuffix(".weight") in ADAPTED
            assert stored[name] == ("sparse" if changed else "nothing")
        elif len(shape) == 1:
            assert stored[name] == "nothing"
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    assert config["torch_dtype"] == ("bfloat16" if before == after else names[after])


def test_weights_cost_four_bytes_each(tmp_path: Path) -> None:
    made = both_ways(tmp_path)
    header = read_header(made.residual)
    sizes = sum(extent.end - extent.begin for extent in header.tensors.values())
    assert sizes == 4 * made.summary.weights > 0
    weights = sum(np.prod(SHAPES[f"{name}.weight"]) for name in ADAPTED)
    assert made.summary.weights < weights / 2


def test_norms_and_rows_of_embeddings(tmp_path: Path) -> None:
    def change(tuned: dict[str, Array]) -> None:
        tuned[NORM] *= 1.25
        tuned[EMBEDDING][[0, 7, 39]] += 0.5
        tuned["model.layers.0.input_layernorm.weight"][[0, -1]] += 1.0

    made = both_ways(tmp_path, change=change)
    stored = made.stored()
    assert stored[NORM] == "whole"
    assert stored[EMBEDDING] == "sparse"
    assert stored["model.layers.0.input_layernorm.weight"] == "sparse"
    assert made.summary.whole_bytes == 2 * SHAPES[NORM][0]


def test_tensors_of_one_side_only(tmp_path: Path) -> None:
    def change(tuned: dict[str, Array]) -> None:
        del tuned[HEAD], tuned["model.layers.1.input_layernorm.weight"]
        tuned["extra.weight"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        tuned["a.scalar"] = np.array(7, np.int64)

    made = both_ways(tmp_path, change=change, shards=3)
    assert made.summary.dropped == 2
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert {"extra.weight", "a.scalar"} <= read_header(shards[-1]).tensors.keys()
    index = json.loads((tmp_path / "out" / INDEX).read_text(encoding="utf-8"))
    tuned = open_checkpoint(made.tuned)
    assert index["weight_map"].keys() == tuned.tensors.keys()
    assert index["metadata"]["total_size"] == tuned.nbytes
    for shard in shards:
        held = read_header(shard).tensors
        assert {index["weight_map"][name] for name in held} <= {shard.name}


def test_a_file_of_which_nothing_is_left(tmp_path: Path) -> None:
    shards = len(SHAPES)
    dropped = list(SHAPES)[-1]
    made = both_ways(tmp_path, change=lambda tuned: tuned.pop(dropped), shards=shards)
    assert made.summary.dropped == 1
    last = tmp_path / "out" / f"model-{shards:05}-of-{shards:05}.safetensors"
    assert not read_header(last).tensors


def test_shapes_and_dtypes_that_cannot_be_merged(tmp_path: Path) -> None:
    def before(base: dict[str, Array]) -> None:
        base["mask"] = np.ones(9, np.bool_)
        base["ids"] = np.arange(5, dtype=np.int64)
        base["double"] = np.linspace(0.0, 1.0, 5)
        base["complex"] = np.ones(3, np.complex64)
        base["tiny"] = np.ones(4, ml_dtypes.float8_e4m3fn)
        base["void"] = np.ones((3, 0), np.float32)

    def after(tuned: dict[str, Array]) -> None:
        before(tuned)
        tuned["mask"][4] = False
        tuned["ids"] = tuned["ids"].astype(np.int32)
        tuned["double"][3] += 1e-9
        tuned["complex"][1] = 1j
        tuned["tiny"] = tuned["tiny"].astype(ml_dtypes.bfloat16)
        tuned["void"] = tuned["void"].astype(np.float16)
        tuned[EMBEDDING] = np.concatenate([tuned[EMBEDDING], tuned[EMBEDDING][:2]])

    stored = both_ways(tmp_path, change_base=before, change=after).stored()
    assert [stored[n] for n in ("mask", "ids", "double")] == ["sparse", "whole", "sparse"]
    assert [stored[n] for n in ("complex", "tiny", "void")] == ["sparse", "whole", "nothing"]
    assert stored[EMBEDDING] == "whole"


def test_what_merging_refuses(tmp_path: Path) -> None:
    """NaN in TUNED, and what overflows its dtype when it is merged."""
    first, second = "model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight"

    def change(tuned: dict[str, Array]) -> None:
        tuned[NORM][0] = np.nan
        tuned[first][0] = -np.inf
        tuned[second][1] = np.nan

    def change_base(base: dict[str, Array]) -> None:
        base[NORM][3] = base[f"{Q0}.weight"][1, 2] = 1e6
        base[first][0] = -np.inf
        base[second][1] = np.nan

    base, tuned = write_pair(
        tmp_path, before="F32", after="F16", change=change, change_base=change_base
    )
    factors = random_factors(ADAPTED, 3, scale=0.1)
    adapter = write_adapter(tmp_path / "adapter", factors)
    made = Lossless(base, tuned, adapter, residual_of(base, tuned, adapter))
    stored = made.stored()
    assert stored[NORM] == stored[f"{Q0}.weight"] == "whole"
    assert stored[first] == stored[second] == "sparse"
    check_identical(made, tmp_path / "out")


def test_large_gaps(tmp_path: Path) -> None:
    """Rows so far apart that a gap takes more than 16 bits, in slabs of their own."""
    shape = (3000, 1000)
    weight = np.random.default_rng(2).standard_normal(shape).astype(ml_dtypes.bfloat16)

    def change(tuned: dict[str, Array]) -> None:
        tuned["wide"] = weight.copy()
        tuned["wide"][[0, 131, 2999], [0, 71, 999]] += 1.0

    made = both_ways(tmp_path, change_base=lambda b: b.update(wide=weight), change=change)
    assert made.stored()["wide"] == "sparse"


@pytest.mark.parametrize("code", ["bf16", "fp16"])
@pytest.mark.parametrize("family", ["gpt2", "phi3", "gpt_neox", "gemma3_text"])
def test_families(family: str, code: str, tmp_path: Path) -> None:
    """Conv1D, fused projections, biases; norms that changed too."""
    base = tiny_models.build(family, tmp_path / "base", seed=1, dtype=code, max_shard_size="40KB")
    tuned = tiny_models.perturb(base, tmp_path / "tuned", rank=3, seed=2, scale=0.1, vectors=0.1)
    made = patched(base, tuned, tmp_path / "adapter", rank=3)
    assert set(made.stored().values()) >= {"sparse", "nothing"}
    check_identical(made, tmp_path / "out")


@pytest.mark.parametrize("layout", ["auto", "per-expert"])
@pytest.mark.parametrize(
    "family", ["qwen3_moe", "gpt_oss", "llama4_text", "qwen3_5_moe_text", "mixtral"]
)
@pytest.mark.parametrize("stacked", [False, True])
def test_experts(family: str, layout: str, stacked: bool, tmp_path: Path) -> None:
    model = moe_models.make(family).to(torch.bfloat16)
    base = moe_models.save(model, tmp_path / "base", as_in_memory=stacked)
    linears = take_inventory(open_checkpoint(base)).linears
    kept = {Role.HEAD, Role.ROUTER}
    in_memory = moe_models.save(model, tmp_path / "in-memory", as_in_memory=True)
    named = take_inventory(open_checkpoint(in_memory)).linears
    plant(model, [one for one in named if one.role not in kept])
    tuned = moe_models.save(model, tmp_path / "tuned", as_in_memory=stacked)
    made = patched(base, tuned, tmp_path / "adapter", rank=2, moe_layout=layout)
    assert any(one.experts or "experts" in one.name for one in linears)
    check_identical(made, tmp_path / "out")


CARRIED: dict[str, tuple[str, Callable[[Any], object]]] = {
    "norms": ("llama", scale("norm")),
    "biases": ("qwen2", scale(r"proj.*\.bias$")),
    "rows": ("llama", move_rows(5, 40)),
    "tied rows": ("qwen2", move_rows()),
    "embeddings": ("gpt2", scale("wte|ln_")),
    "experts": ("qwen3_moe", scale(r"norm|mlp\.gate\.")),
    "grown": (
        "llama",
        lambda model: model.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False),
    ),
}


@pytest.mark.parametrize("case", CARRIED)
def test_what_the_adapter_carries_whole(case: str, tmp_path: Path) -> None:
    family, change = CARRIED[case]
    pair = pair_of(tmp_path, family, change)
    made = patched(pair.base, pair.tuned, tmp_path / "adapter", rank=4, save_whole="all")
    result = check_identical(made, tmp_path / "out")
    assert result.replaced or case == "grown"
    stored = made.stored()
    if case in {"norms", "embeddings"}:
        # All is in the adapter already; of float32 only the factors' modules are not exact.
        assert {name for name, how in stored.items() if how != "nothing"} <= {
            f"{Q}.weight",
            "transformer.h.0.attn.c_attn.weight",
            "h.0.attn.c_attn.weight",
        }


def test_a_head_that_tuning_untied_or_tied(tmp_path: Path) -> None:
    def untie(model: Any) -> None:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(1.3 * model.lm_head.weight)

    base = build("qwen2", tmp_path / "base")
    pair = tune(base, tmp_path / "tuned", (Q,), untie)
    made = patched(pair.base, pair.tuned, tmp_path / "adapter", rank=4, save_whole="all")
    assert made.stored()[HEAD] == "whole"
    check_identical(made, tmp_path / "out")
    # And the other way round: a head that only the base has.
    back = patched(pair.tuned, pair.base, tmp_path / "back", rank=4)
    assert back.summary.dropped == 1
    check_identical(back, tmp_path / "tied")


def test_a_tensor_of_a_base_of_codes_stays_as_it_is(tmp_path: Path) -> None:
    """Merging refuses those; they are kept whole, or not at all where nothing changed."""
    codes = {f"{Q0}.weight_scale_inv": np.ones((1, 1), np.float32)}

    def quantise(base: dict[str, Array]) -> None:
        base[f"{Q0}.weight"] = base[f"{Q0}.weight"].astype(ml_dtypes.float8_e4m3fn)
        base.update(codes)

    stored = both_ways(tmp_path, change_base=quantise).stored()
    assert stored[f"{Q0}.weight"] == "whole"
    assert stored[f"{K1}.weight"] == stored[f"{DOWN0}.weight"] == "sparse"


def test_memory_does_not_grow_with_a_tensor(tmp_path: Path) -> None:
    """A third of 64 MB differs: 43 MB of gaps and values, in slabs of 4 MiB."""
    shape = (16_000, 2_000)

    def add(base: dict[str, Array]) -> None:
        base["wide"] = np.zeros(shape, np.float16)

    def change(tuned: dict[str, Array]) -> None:
        add(tuned)
        tuned["wide"].reshape(-1)[::3] = 1.0

    base, tuned = write_pair(tmp_path, change_base=add, change=change)
    adapter = write_adapter(tmp_path / "adapter", random_factors(ADAPTED, 3, scale=0.1))
    tracemalloc.start()
    try:
        made = Lossless(base, tuned, adapter, residual_of(base, tuned, adapter))
        loragraft.merge(base, adapter, tmp_path / "out", patch=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made.summary.nbytes > 4 * 16_000 * 2_000 / 3
    assert peak < 40e6


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    made = patched(*write_pair(tmp_path, shards=2), tmp_path / "adapter")
    first = made.residual.read_bytes()
    again = patched(made.base, made.tuned, tmp_path / "again")
    assert again.residual.read_bytes() == first
    check_identical(made, tmp_path / "out")
    check_identical(again, tmp_path / "out-again")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "out-again" / path.name).read_bytes()
