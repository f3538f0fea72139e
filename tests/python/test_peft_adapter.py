"""Adapters as files, proven with the real PEFT: it creates exactly the modules in the file."""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
)

import tiny_models
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import (
    CONFIG_FILE,
    TENSORS_FILE,
    WrittenModule,
    adapter_config,
    factor_keys,
    task_type,
)
from loragraft.architecture import LinearModule, Role, take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import NothingToAdaptError
from loragraft.tensor_reader import TensorReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from loragraft.architecture import Inventory

RANK = 4
# PEFT 0.21 asks transformers 5.23 by the old name; it has nothing to do with the adapter.
DEPRECATED = "`is_gradient_checkpointing` is deprecated"
pytestmark = pytest.mark.filterwarnings(f"ignore:{DEPRECATED}:FutureWarning")


def _even(linear: LinearModule) -> bool:
    return linear.layer is not None and linear.layer % 2 == 0


SUBSETS: dict[str, Callable[[LinearModule], bool]] = {
    "all linear layers": lambda m: m.role is not Role.HEAD,
    "and the head": lambda m: True,
    "one layer": lambda m: m.layer == 1,
    "attention only": lambda m: m.role is Role.ATTENTION,
    "mlp only": lambda m: m.role is Role.MLP,
    "every second layer": _even,
    "one module unchanged": lambda m: m.layer != 0 or m.kind not in {"q_proj", "c_attn", "dense"},
    "one module": lambda m: m.layer == 0 and m.kind in {"k_proj", "qkv_proj", "c_fc", "dense"},
}


@pytest.fixture(scope="module", params=tiny_models.FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param) / "base"
    return tiny_models.build(request.param, directory, seed=3, dtype="fp32")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build("llama", tmp_path_factory.mktemp("m") / "base", seed=3, dtype="fp32")


def inventory_of(base: Path) -> Inventory:
    return take_inventory(open_checkpoint(base))


def write_adapter(
    directory: Path,
    base: Path,
    linears: Sequence[LinearModule],
    *,
    rank: int = RANK,
    alpha: float = RANK,
    ranks: dict[str, int] | None = None,
) -> dict[str, torch.Tensor]:
    """Write random factors with our config; return the weight change of each module."""
    inventory = inventory_of(base)
    generator = torch.Generator().manual_seed(5)
    tensors, changes, written = {}, {}, []
    for linear in linears:
        own_rank = (ranks or {}).get(linear.name, rank)
        key_a, key_b = factor_keys(linear.name)
        tensors[key_a] = torch.randn(own_rank, linear.shape[1], generator=generator)
        tensors[key_b] = torch.randn(linear.shape[0], own_rank, generator=generator)
        own_alpha = alpha * own_rank / rank
        written.append(WrittenModule(linear.name, own_rank, own_alpha, linear.transposed))
        changes[linear.name] = own_alpha / own_rank * tensors[key_b] @ tensors[key_a]
    config = adapter_config(
        written,
        base_model=str(base),
        rank=rank,
        alpha=alpha,
        all_linear_names=[linear.name for linear in inventory.linears],
        task_type=task_type(open_checkpoint(base).config),
    )
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / TENSORS_FILE, metadata={"format": "pt"})
    (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    return changes


def check_with_peft(
    base: Path, adapter: Path, changes: dict[str, torch.Tensor], auto: Any = AutoModelForCausalLM
) -> None:
    """Load with PEFT, warnings being errors; compare its modules and its merged weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=DEPRECATED)
        model = auto.from_pretrained(base)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        peft_model = PeftModel.from_pretrained(model, adapter)
        result = peft_model.load_adapter(adapter, "again")
    assert result.missing_keys == []
    assert result.unexpected_keys == []
    created = {
        name.removeprefix("base_model.model.")
        for name, module in peft_model.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert created == set(changes)
    transposed = {linear.name for linear in inventory_of(base).linears if linear.transposed}
    merged = peft_model.merge_and_unload(adapter_names=["default"]).state_dict()
    for name, value in before.items():
        change = changes.get(name.removesuffix(".weight"))
        if change is None:
            assert torch.equal(merged[name], value), name
        else:
            change = change.T if name.removesuffix(".weight") in transposed else change
            torch.testing.assert_close(merged[name], value + change, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("subset", SUBSETS)
def test_peft_creates_exactly_the_modules_in_the_file(
    base: Path, subset: str, tmp_path: Path
) -> None:
    linears = [linear for linear in inventory_of(base).linears if SUBSETS[subset](linear)]
    # Where the head is tied to the embedding, there is no head in the file to adapt.
    tied = AutoConfig.from_pretrained(base).tie_word_embeddings
    heads = [linear for linear in inventory_of(base).linears if linear.role is Role.HEAD]
    assert bool(heads) is not tied
    assert linears
    changes = write_adapter(tmp_path / "adapter", base, linears, alpha=8.0)
    check_with_peft(base, tmp_path / "adapter", changes)


def test_one_module_of_smaller_rank(base: Path, tmp_path: Path) -> None:
    linears = [m for m in inventory_of(base).linears if m.role is not Role.HEAD]
    small = linears[len(linears) // 2].name
    changes = write_adapter(tmp_path / "a", base, linears, alpha=8.0, ranks={small: 1})
    check_with_peft(base, tmp_path / "a", changes)
    config = json.loads((tmp_path / "a" / CONFIG_FILE).read_text())
    assert list(config["rank_pattern"].values()) == [1]
    assert list(config["alpha_pattern"].values()) == [2]
    adapter = read_adapter(tmp_path / "a")
    assert {module.scaling for module in adapter.modules} == {2.0}
    assert {module.name: module.rank for module in adapter.modules}[small] == 1


def test_reading_gives_peft_s_scaling_and_the_factors(base: Path, tmp_path: Path) -> None:
    linears = [m for m in inventory_of(base).linears if m.role is not Role.HEAD]
    changes = write_adapter(tmp_path / "a", base, linears, alpha=6.0)
    adapter = read_adapter(tmp_path / "a")
    assert [module.name for module in adapter.modules] == [linear.name for linear in linears]
    assert adapter.other_tensors == {}
    with TensorReader() as reader:
        for module in adapter.modules:
            b = reader.rows(module.lora_B, 0, module.lora_B.shape[0])
            a = reader.rows(module.lora_A, 0, module.rank)
            np.testing.assert_allclose(
                module.scaling * b @ a, changes[module.name].numpy(), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("rslora", [False, True])
def test_scaling_agrees_with_peft_for_its_own_patterns(
    llama: Path, tmp_path: Path, rslora: bool
) -> None:
    """Suffixes, regexes, several keys that match: the first wins, as in PEFT."""
    linears = inventory_of(llama).linears
    ranks = {m.name: 2 for m in linears if m.kind == "q_proj" and m.layer == 1}
    ranks |= {m.name: 3 for m in linears if m.kind == "q_proj" and m.layer != 1}
    write_adapter(tmp_path / "a", llama, linears, ranks=ranks)
    path = tmp_path / "a" / CONFIG_FILE
    config = json.loads(path.read_text())
    config["rank_pattern"] = {r"layers.1\.self_attn.q_proj": 2, "q_proj": 3}
    config["alpha_pattern"] = {"v_proj": 5, r"layers\.\d+\..*_proj": 1.5, ".*proj": 100}
    config["use_rslora"] = rslora
    path.write_text(json.dumps(config))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "a")
    scalings = {
        name.removeprefix("base_model.model."): module.scaling["default"]
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    ours = {module.name: module.scaling for module in read_adapter(tmp_path / "a").modules}
    assert ours == pytest.approx(scalings)
    assert len(set(ours.values())) == 5


def test_names_follow_the_class_that_the_config_names(tmp_path: Path) -> None:
    """GPT-2's own files lack the prefix ``transformer.`` that the class with a head has."""
    base = tiny_models.build("gpt2", tmp_path / "base", seed=1, dtype="fp32")
    tensors = tiny_models.read_tensors(base)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    linears = inventory_of(base).linears
    assert {linear.name.partition(".")[0] for linear in linears} == {"transformer"}
    assert all(linear.tensor.startswith("h.") for linear in linears)
    check_with_peft(base, tmp_path / "a", write_adapter(tmp_path / "a", base, linears))


def test_a_bare_class_drops_the_prefix(llama: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in llama.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    tiny_models.edit_config(base, architectures=["LlamaModel"])
    linears = [m for m in inventory_of(base).linears if m.role is not Role.HEAD]
    assert linears[0].name.startswith("layers.0.")
    changes = write_adapter(tmp_path / "a", base, linears)
    assert json.loads((tmp_path / "a" / CONFIG_FILE).read_text())["task_type"] is None
    check_with_peft(base, tmp_path / "a", changes, auto=AutoModel)


def test_a_classifier_loads_without_its_head_in_the_file(llama: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForSequenceClassification.from_pretrained(llama, num_labels=3).save_pretrained(base)
    linears = [m for m in inventory_of(base).linears if m.role is not Role.HEAD]
    changes = write_adapter(tmp_path / "a", base, linears)
    check_with_peft(base, tmp_path / "a", changes, auto=AutoModelForSequenceClassification)


@pytest.mark.parametrize("language_only", [False, True])
def test_names_follow_what_transformers_renames(tmp_path: Path, language_only: bool) -> None:
    """The files of Gemma-3 with vision say language_model.model, the class the reverse."""
    base = tiny_models.build_gemma3_vision(tmp_path / "base", seed=2)
    linears = [
        linear
        for linear in inventory_of(base).linears
        if linear.role is not Role.HEAD and ("language" in linear.name or not language_only)
    ]
    assert linears[0].tensor.startswith("language_model.model.layers.0.")
    assert linears[0].name.startswith("model.language_model.layers.0.")
    changes = write_adapter(tmp_path / "a", base, linears)
    check_with_peft(base, tmp_path / "a", changes, auto=AutoModelForImageTextToText)


def test_six_hundred_modules_of_every_second_layer_become_a_regex(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "llama", **tiny_models.config_of("llama") | {"num_hidden_layers": 172, "hidden_size": 8}
    )
    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(base)
    linears = [linear for linear in inventory_of(base).linears if _even(linear)]
    assert len(linears) == 602
    changes = write_adapter(tmp_path / "a", base, linears, rank=1)
    pattern = PeftConfig.from_pretrained(str(tmp_path / "a")).target_modules
    assert isinstance(pattern, str)
    assert len(pattern) < 1000
    model = AutoModelForCausalLM.from_pretrained(base)
    peft_model = PeftModel.from_pretrained(model, tmp_path / "a")
    names = [n for n, module in peft_model.named_modules() if isinstance(module, LoraLayer)]
    assert {name.removeprefix("base_model.model.") for name in names} == set(changes)


def test_config_is_what_servers_expect(llama: Path, tmp_path: Path) -> None:
    """VLLM takes one scale from the config and refuses modules_to_save and DoRA."""
    linears = inventory_of(llama).linears
    write_adapter(tmp_path / "a", llama, linears, rank=8, alpha=8, ranks={linears[0].name: 2})
    config = json.loads((tmp_path / "a" / CONFIG_FILE).read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 8)
    assert isinstance(config["lora_alpha"], int)
    assert config["modules_to_save"] is None
    assert config["bias"] == "none"
    assert config["inference_mode"] is True
    assert not any(config[key] for key in ("use_dora", "use_rslora", "fan_in_fan_out"))
    assert config["lora_dropout"] == 0
    scalings = {module.scaling for module in read_adapter(tmp_path / "a").modules}
    assert scalings == {config["lora_alpha"] / config["r"]}


def test_fractional_alpha_stays_fractional() -> None:
    module = WrittenModule("model.layers.0.q_proj", 3, 0.75, transposed=False)
    config = adapter_config(
        [module], base_model="b", rank=4, alpha=1.0, all_linear_names=[], task_type=None
    )
    assert config["alpha_pattern"] == {r"model\.layers\.0\.q_proj": 0.75}
    assert config["rank_pattern"] == {r"model\.layers\.0\.q_proj": 3}


def test_pattern_keys_match_their_module_alone() -> None:
    """A name that ends another one is anchored; a dot is no wildcard."""
    names = ["layers.0.q_proj", "vision.layers.0.q_proj", "vision.layersx0.q_proj"]
    modules = [WrittenModule(name, 2 if i == 0 else 4, 4, False) for i, name in enumerate(names)]
    config = adapter_config(
        modules, base_model="b", rank=4, alpha=4, all_linear_names=names, task_type=None
    )
    (key,) = config["rank_pattern"]
    assert [name for name in names if re.match(rf"(.*\.)?({key})$", name)] == names[:1]


def test_fan_in_fan_out_where_a_layer_is_stored_transposed() -> None:
    module = WrittenModule("transformer.h.0.mlp.c_fc", 4, 4, transposed=True)
    config = adapter_config(
        [module], base_model="b", rank=4, alpha=4, all_linear_names=[], task_type=None
    )
    assert config["fan_in_fan_out"] is True


def test_no_modules_is_an_error() -> None:
    with pytest.raises(NothingToAdaptError, match="at least one module"):
        adapter_config([], base_model="b", rank=1, alpha=1, all_linear_names=[], task_type=None)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("LlamaForCausalLM", "CAUSAL_LM"),
        ("GPT2LMHeadModel", "CAUSAL_LM"),
        ("LlamaForSequenceClassification", None),
        ("T5ForConditionalGeneration", None),
        ("GPT2Model", None),
        (None, None),
        (7, None),
    ],
)
def test_task_type(architecture: object, expected: str | None) -> None:
    assert task_type({"architectures": [architecture]}) == expected
    assert task_type({"architectures": architecture}) is None
    assert task_type(None) is None
