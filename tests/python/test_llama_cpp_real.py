"""Adapters in the real llama.cpp on real models: as they are shipped, quantised, and unpacked.

Slow, and needs the models' packages: see ``make test-slow``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import llama_build
import loragraft
import real_models
from compatibility import record
from expert_adapters import write_adapter
from loragraft.architecture.modules import take_inventory
from loragraft.checkpoint import open_checkpoint

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
_TEXT: Final = "The mill at the end of the lane had stood empty since the river changed its course."
_DEMO: Final = Path(loragraft.__file__).parent / "demo" / "adapter"
#: What llama.cpp and transformers differ by without an adapter: thirty layers of sums in float32;
#: in Gemma's eighteen also GELU out of a table in half precision.
_FLOOR: Final = {"smollm2": 1e-3, "gemma3": 0.05}
#: llama.cpp rounds activations to 8 bits before it multiplies them with quantised weights, which
#: moves logits by about 1 with or without an adapter.
_ALIKE: Final = {"smollm2": 0.98, "gemma3": 0.9}


@pytest.mark.parametrize("name", real_models.MODELS)
def test_logits_are_those_of_peft(name: str, tmp_path: Path) -> None:
    """To rounding on the unpacked weights; on the quantised file the effect is the same."""
    shipped = real_models.MODELS[name](tmp_path)
    base = real_models.unpack(shipped, tmp_path / "base")
    tokens = AutoTokenizer.from_pretrained(base)(_TEXT)["input_ids"]
    adapter = _DEMO
    if name != "smollm2":
        adapter = tmp_path / "adapter"
        write_adapter(adapter, base, take_inventory(open_checkpoint(base)).linears, scaling=0.02)
    loragraft.export(adapter, tmp_path / "plain.gguf", base=base, dtype="fp32")
    loragraft.export(adapter, tmp_path / "shipped.gguf", base=shipped, dtype="fp32")
    # The quantised file tells names and shapes as well as the weights do.
    assert (tmp_path / "plain.gguf").read_bytes() == (tmp_path / "shipped.gguf").read_bytes()
    unpacked = llama_build.convert(base, tmp_path / "base.gguf")
    given = {"adapter": tmp_path / "plain.gguf"}
    ours = llama_build.logits(unpacked, given, tokens, tmp_path)
    quantised = llama_build.logits(shipped, given, tokens, tmp_path)
    theirs = _peft_logits(base, adapter, tokens)
    width = min(each["base"].shape[1] for each in (ours, quantised, theirs))
    ours, quantised, theirs = (
        {key: values[:, :width] for key, values in each.items()}
        for each in (ours, quantised, theirs)
    )
    floor, error = (float(np.abs(ours[k] - theirs[k]).max()) for k in ("base", "adapter"))
    effects = [each["adapter"] - each["base"] for each in (theirs, quantised)]
    effect, alike = float(np.abs(effects[0]).max()), _cosine(*effects)
    noise = float(np.abs(quantised["base"] - ours["base"]).max())
    record("llama.cpp", name, "real model, unpacked", error=error, effect=effect, floor=floor)
    record("llama.cpp", name, "real model, quantised", alike=alike, effect=effect, noise=noise)
    assert effect > 1.0
    assert floor < _FLOOR[name]
    assert error < 3 * floor + 1e-3 * effect
    assert alike > _ALIKE[name]


def _peft_logits(base: Path, adapter: Path, ids: list[int]) -> dict[str, Array]:
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = torch.tensor([ids])
    with torch.no_grad():
        plain = model(tokens).logits[0].numpy()
        adapted = PeftModel.from_pretrained(model, adapter).eval()(tokens).logits[0].numpy()
    return {"base": plain, "adapter": adapted}


def _cosine(x: Array, y: Array) -> float:
    return float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
