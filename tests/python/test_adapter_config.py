"""adapter_config.json and tensor names of adapters on parameters, by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from peft.utils.other import get_pattern_key

from loragraft.adapter.peft_config import WrittenModule, adapter_config, keys_of
from loragraft.adapter.settings import Settings
from loragraft.architecture.address import Address

EXPERTS = "model.layers.{}.mlp.experts"


def expert(layer: int, parameter: str = "gate_up_proj", rank: int = 4) -> WrittenModule:
    module = EXPERTS.format(layer)
    address = Address(module, parameter, order=int(parameter == "down_proj"))
    return WrittenModule(f"{module}.{parameter}", rank, 2.0 * rank, False, address)


def layer(name: str, rank: int = 4) -> WrittenModule:
    return WrittenModule(name, rank, 2.0 * rank, False)


def config_of(*modules: WrittenModule, rank: int = 4, **more: Any) -> dict[str, Any]:
    config = adapter_config(
        modules,
        base_model="owner/base",
        rank=rank,
        alpha=2.0 * rank,
        all_linear_names=more.get("names", ()),
        task_type=None,
    )
    json.dumps(config)
    return config


def test_names_of_tensors_by_hand() -> None:
    """The parameter registered first is the innermost; alone it has no wrapper around it."""
    inner, outer = expert(3).address, expert(3, "down_proj").address
    assert inner is not None
    assert outer is not None
    stem = "base_model.model.model.layers.3.mlp.experts"
    for order in ([inner, outer], [outer, inner]):
        keys = keys_of(order)
        assert keys[inner][0] == f"{stem}.base_layer.lora_A.weight"
        assert keys[outer][1] == f"{stem}.lora_B.weight"
    assert keys_of([inner])[inner] == (f"{stem}.lora_A.weight", f"{stem}.lora_B.weight")
    three = [Address("m", name, i) for i, name in enumerate(("gate", "up", "down"))]
    assert [keys_of(three)[address][0] for address in three] == [
        "base_model.model.m.base_layer.base_layer.lora_A.weight",
        "base_model.model.m.base_layer.lora_A.weight",
        "base_model.model.m.lora_A.weight",
    ]
    router = Address("model.layers.3.mlp.gate", "weight")
    plain = Address("model.layers.3.self_attn.q_proj")
    keys = keys_of([router, plain, inner, outer])
    assert keys[router][0] == "base_model.model.model.layers.3.mlp.gate.lora_A.weight"
    assert keys[plain][1] == "base_model.model.model.layers.3.self_attn.q_proj.lora_B.weight"


def test_parameters_alone_ask_for_no_layer() -> None:
    """None would make PEFT choose layers by the model's type."""
    config = config_of(expert(10, "down_proj"), expert(2), expert(2, "down_proj"))
    assert config["target_modules"] == []
    assert config["target_parameters"] == [
        "model.layers.2.mlp.experts.down_proj",
        "model.layers.2.mlp.experts.gate_up_proj",
        "model.layers.10.mlp.experts.down_proj",
    ]
    assert config["rank_pattern"] == config["alpha_pattern"] == {}


def test_layers_alone_name_no_parameters() -> None:
    assert "target_parameters" not in config_of(layer("model.layers.0.mlp.up_proj"))


def test_weights_reached_as_parameters_are_no_target_modules() -> None:
    router = layer("model.layers.0.mlp.gate")._replace(
        address=Address("model.layers.0.mlp.gate", "weight")
    )
    config = config_of(router, layer("model.layers.0.self_attn.gate"), names=(router.name,))
    assert config["target_parameters"] == ["model.layers.0.mlp.gate.weight"]
    assert config["target_modules"] == ["self_attn.gate"]


def test_experts_that_are_stored_in_out_are_no_conv1d() -> None:
    assert not config_of(expert(0)._replace(transposed=True))["fan_in_fan_out"]


def test_a_long_list_beside_parameters_stays_a_list() -> None:
    """PEFT reduces an expression to last components for models with experts."""
    layers = [layer(f"model.layers.{i}.self_attn.q_proj") for i in range(0, 1200, 2)]
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(1200)]
    assert isinstance(config_of(*layers, names=names)["target_modules"], str)
    targets = config_of(expert(0), *layers, names=names)["target_modules"]
    assert targets == [module.name for module in layers]


@pytest.mark.parametrize("layers", [(), (4, 4), (2, 4), (2, 3)])
@pytest.mark.parametrize("ranks", [(4, 4), (2, 4), (2, 1), (2, 2)])
def test_every_module_gets_its_own_rank(layers: tuple[int, ...], ranks: tuple[int, int]) -> None:
    modules = [
        *(layer(f"model.layers.{i}.self_attn.q_proj", rank) for i, rank in enumerate(layers)),
        *(expert(i, rank=rank) for i, rank in enumerate(ranks)),
        *(expert(i, "down_proj", rank) for i, rank in enumerate(reversed(ranks))),
    ]
    config = config_of(*modules)
    settings = Settings.parse(config, "here")
    for module in modules:
        name = module.parameter or module.name
        assert settings.rank(name) == module.rank
        assert settings.alpha(name) == module.alpha
        key = get_pattern_key(config["rank_pattern"].keys(), name)
        assert config["rank_pattern"].get(key, config["r"]) == module.rank
    if layers:
        # PEFT 0.21 warns of keys that match no layer; the values of all layers come first.
        for table in (config["rank_pattern"], config["alpha_pattern"]):
            for key in table:
                found = [get_pattern_key([key], module.name) == key for module in modules[:2]]
                assert any(found[: len(layers)])


def test_names_that_end_others_are_told_apart() -> None:
    inner = layer("layers.0.self_attn.q_proj", 2)
    outer = layer("vision.layers.0.self_attn.q_proj", 4)
    short = expert(0, rank=1)
    long = expert(0, rank=3)._replace(
        name="vision.model.layers.0.mlp.experts.gate_up_proj",
        address=Address("vision.model.layers.0.mlp.experts", "gate_up_proj"),
    )
    settings = Settings.parse(config_of(inner, outer, short, long), "here")
    assert [settings.rank(m.parameter or m.name) for m in (inner, outer, short, long)] == [
        2,
        4,
        1,
        3,
    ]
