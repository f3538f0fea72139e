"""What the tests of `extract` share: pairs on disk, float64 references, and real PEFT."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

import lora_files as files
from loragraft.errors import LoragraftError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from loragraft.report.model import ModuleReport, Report, TensorReport

    Array = files.Array

TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
UNFINISHED = (".loragraft-journal", ".loragraft-spool")

UNIT = 2.0**-24
"""Half a unit in the last place of float32, relative."""

CAST = {"F32": UNIT, "F16": 2.0**-11, "BF16": 2.0**-8}
"""Largest relative error of one rounding to a factor's dtype."""

SKETCHED = {
    "model.layers.0.self_attn.q_proj.weight": (120, 96),
    "model.layers.0.self_attn.k_proj.weight": (40, 96),
    "model.layers.0.mlp.up_proj.weight": (2300, 48),
    "model.layers.0.mlp.down_proj.weight": (48, 2500),
    "model.layers.1.self_attn.q_proj.weight": (120, 96),
    "model.layers.1.mlp.up_proj.weight": (4400, 40),
    "model.norm.weight": (96,),
}
"""Shapes too large for the full SVD, with more than one tile, slab and group of slabs."""


def noise_pair(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    dtypes: tuple[str, str] = ("BF16", "BF16"),
    change: float = 0.02,
    seed: int = 0,
) -> dict[str, Any]:
    """A pair in which every tensor changes: singular values decay, none is zero."""
    rng = np.random.default_rng(seed)
    base, tuned = {}, {}
    for name, shape in shapes.items():
        weight = (0.3 * rng.standard_normal(shape)).astype(files.NUMPY_DTYPES[dtypes[0]])
        delta = change * rng.standard_normal(shape)
        if len(shape) == 2:
            delta /= np.sqrt(np.arange(1.0, shape[1] + 1.0))
        base[name] = weight
        tuned[name] = (weight.astype(np.float64) + delta).astype(files.NUMPY_DTYPES[dtypes[1]])
    return {
        "base": base,
        "tuned": tuned,
        "paths": (
            files.write_checkpoint(directory / "base", base),
            files.write_checkpoint(directory / "tuned", tuned),
        ),
    }


def tensor(report: Report, name: str) -> TensorReport:
    (found,) = [row for row in report.tensors if row.name == name]
    return found


def module(report: Report, name: str) -> ModuleReport:
    (found,) = [row for row in report.modules if row.name == name]
    return found


def outcomes(report: Report) -> dict[str, str]:
    """Outcome by tensor name; each tensor is listed once."""
    found = {row.name: row.outcome.value for row in report.tensors}
    assert len(found) == len(report.tensors)
    return found


def factors(adapter: Path) -> dict[str, tuple[Array, Array]]:
    """(B, A) by module as they lie in the adapter's file."""
    tensors = files.read_checkpoint(adapter)
    assert {name.rpartition(".lora_")[2] for name in tensors} == {"A.weight", "B.weight"}
    names = [name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name]
    return {
        name.removeprefix("base_model.model."): (
            tensors[f"{name}.lora_B.weight"],
            tensors[f"{name}.lora_A.weight"],
        )
        for name in names
    }


def product_bound(b: Array, a: Array, scaling: float = 1.0) -> float:
    """Most by which scaling·B·A formed in float32 differs from the exact product, in norm."""
    norms = float(np.linalg.norm(b.astype(np.float64)) * np.linalg.norm(a.astype(np.float64)))
    return float((a.shape[0] + 2) * UNIT * abs(scaling) * norms)


def cast_bound(b: Array, a: Array, code: str, scaling: float = 1.0) -> float:
    """Most by which scaling·B·A moves when both factors are rounded to a dtype, in norm."""
    unit = CAST[code]
    norms = float(np.linalg.norm(b.astype(np.float64)) * np.linalg.norm(a.astype(np.float64)))
    return float((2 * unit + unit**2) * abs(scaling) * norms / (1 - unit) ** 2)


def load_base(directory: Path, dtype: torch.dtype = torch.float64) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    return model.eval()


def load_peft(base: Path, adapter: Path, dtype: torch.dtype = torch.float64) -> Any:
    """Base and adapter in real PEFT, which must find exactly the modules of the file.

    A missing key is a warning of `from_pretrained`, hence an error in these tests.
    """
    model = PeftModel.from_pretrained(load_base(base, dtype), adapter)
    again = model.load_adapter(adapter, "again")
    assert again.missing_keys == []
    assert again.unexpected_keys == []
    model.delete_adapter("again")
    assert set(scalings(model)) == set(factors(adapter))
    return model.eval()


def scalings(model: Any) -> dict[str, float]:
    """The scale that PEFT gives every module it has put an adapter on."""
    return {
        name.removeprefix("base_model.model."): layer.scaling["default"]
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def logits(model: Any, vocabulary: int = 128) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, vocabulary, (2, 12), generator=generator)
    with torch.no_grad():
        return model(input_ids=tokens).logits.double()  # type: ignore[no-any-return]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(one.double() - other.double()))


def norm(array: Array) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def refused(
    kind: type[LoragraftError],
    pattern: str,
    call: Callable[[], object],
    place: Path,
    kept: Collection[Path] = (),
) -> str:
    """Assert that a call fails with one line and leaves everything below ``place`` alone.

    ``kept`` is what it may leave behind.
    """
    names, before = sorted(place.rglob("*")), contents(place)
    with pytest.raises(LoragraftError) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert re.search(pattern, message), message
    assert "\n" not in message
    assert sorted(set(place.rglob("*")) - set(kept)) == names
    now = contents(place)
    for path in kept:
        now.pop(str(path.relative_to(place)), None)
    assert now == before
    return message


def root_sum(values: list[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in values))
