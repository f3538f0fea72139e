"""Reading PEFT's files: what they say, and what is wrong with them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import CONFIG_FILE, TENSORS_FILE, factor_keys
from loragraft.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "model.layers.0.self_attn.q_proj"
PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def write_raw(
    directory: Path, config: object, tensors: dict[str, torch.Tensor] | None = None
) -> Path:
    directory.mkdir()
    key_a, key_b = factor_keys(NAME)
    if tensors is None:
        tensors = {key_a: torch.ones(2, 6), key_b: torch.ones(5, 2)}
    save_file(tensors, directory / TENSORS_FILE)
    (directory / CONFIG_FILE).write_text(json.dumps(config))
    return directory


def test_defaults_are_those_of_peft(tmp_path: Path) -> None:
    tensors = dict(zip(factor_keys(NAME), (torch.ones(8, 6), torch.ones(5, 8)), strict=True))
    (module,) = read_adapter(write_raw(tmp_path / "a", {"peft_type": "LORA"}, tensors)).modules
    assert (module.name, module.rank, module.alpha, module.scaling) == (NAME, 8, 8.0, 1.0)
    assert module.lora_A.shape == (8, 6)
    assert module.lora_B.path == tmp_path / "a" / TENSORS_FILE


def test_rslora_scales_by_the_root_of_the_rank(tmp_path: Path) -> None:
    (module,) = read_adapter(write_raw(tmp_path / "a", PLAIN | {"use_rslora": True})).modules
    assert module.scaling == 4 / math.sqrt(2)


def test_other_tensors_are_kept_apart(tmp_path: Path) -> None:
    key_a, key_b = factor_keys(NAME)
    tensors = {
        key_a: torch.ones(2, 6),
        key_b: torch.ones(5, 2),
        "base_model.model.lm_head.weight": torch.ones(3, 3),
        key_b.replace("weight", "bias"): torch.ones(5),
    }
    adapter = read_adapter(write_raw(tmp_path / "a", PLAIN, tensors) / TENSORS_FILE)
    assert [module.name for module in adapter.modules] == [NAME]
    assert set(adapter.other_tensors) == set(tensors) - {key_a, key_b}
    assert adapter.directory == tmp_path / "a"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "peft_type is None, expected 'LORA'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        (PLAIN | {"use_dora": True}, "use_dora is True"),
        (PLAIN | {"target_parameters": "x"}, "target_parameters is 'x', expected a list"),
        (PLAIN | {"target_parameters": ["a\x1b[2J"]}, "expected a list of names"),
        (PLAIN | {"target_parameters": ["a" * 1001]}, "expected a list of names"),
        (PLAIN | {"target_parameters": [*"abcdefg"]}, "a, b, c, d, e, …, but the tensor file has"),
        (PLAIN | {"layer_replication": [[0, 4]]}, "layer_replication"),
        (PLAIN | {"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
        (PLAIN | {"init_lora_weights": "pissa_niter_4"}, "changes the base weights too"),
        (PLAIN | {"r": 0}, "r is 0, expected an integer of at least 1"),
        (PLAIN | {"r": "2"}, "r is '2'"),
        (PLAIN | {"r": True}, "r is True"),
        (PLAIN | {"r": 3}, "gives it rank 3"),
        (PLAIN | {"lora_alpha": None}, "lora_alpha is None, expected a finite number"),
        (PLAIN | {"rank_pattern": {"q_proj": 4}}, "gives it rank 4"),
        (PLAIN | {"rank_pattern": {"(": 4}}, "no regular expression"),
        (PLAIN | {"rank_pattern": ["q_proj"]}, "rank_pattern is"),
        (PLAIN | {"alpha_pattern": {"q_proj": "1"}}, "alpha_pattern 'q_proj' is '1'"),
        ([PLAIN], "expected a JSON object"),
    ],
)
def test_configs_that_cannot_be_used(tmp_path: Path, config: object, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_adapter(write_raw(tmp_path / "a", config))
    assert message in str(caught.value)
    assert CONFIG_FILE in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.ones(2, 6), None, "has no lora_B.weight"),
        (None, torch.ones(5, 2), "has no lora_A.weight"),
        (torch.ones(2, 6), torch.ones(5, 3), "expected [2, in] and [out, 2]"),
        (torch.ones(3, 6), torch.ones(5, 3), "gives it rank 2"),
        (torch.ones(2), torch.ones(5, 2), "F32 of shape [2], expected a matrix"),
        (torch.ones(2, 0), torch.ones(5, 2), "expected a matrix"),
        (torch.ones(2, 6, dtype=torch.int8), torch.ones(5, 2), "is I8 of shape [2, 6]"),
        (None, None, "no LoRA factors"),
    ],
)
def test_factors_that_do_not_fit(
    tmp_path: Path, a: torch.Tensor | None, b: torch.Tensor | None, message: str
) -> None:
    keys = factor_keys(NAME)
    tensors = {key: t for key, t in zip(keys, (a, b), strict=True) if t is not None}
    with pytest.raises(FormatError) as caught:
        read_adapter(write_raw(tmp_path / "a", PLAIN, tensors))
    assert message in str(caught.value)
    assert TENSORS_FILE in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such directory"):
        read_adapter(tmp_path / "nowhere")
    with pytest.raises(FormatError, match=f"no {TENSORS_FILE}"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(FormatError, match="is a pickle"):
        read_adapter(tmp_path)
    directory = write_raw(tmp_path / "a", PLAIN)
    (directory / CONFIG_FILE).unlink()
    with pytest.raises(FormatError, match=f"no {CONFIG_FILE}"):
        read_adapter(directory)
    (directory / CONFIG_FILE).write_text("{")
    with pytest.raises(FormatError, match="not valid JSON"):
        read_adapter(directory)
