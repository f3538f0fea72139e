"""Pairs of checkpoints, adapters extracted from them, residuals, and what comes back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import loragraft
from lora_files import (
    ADAPTED,
    NUMPY_DTYPES,
    RANK,
    add_delta,
    random_factors,
    random_weights,
    write_checkpoint,
)
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import RESIDUAL_FILE
from loragraft.checkpoint import open_checkpoint
from loragraft.lossless.making import write_residual
from loragraft.lossless.manifest import MANIFEST_KEY
from loragraft.tensor_bytes import TensorBytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lora_files import Array
    from loragraft.lossless.summary import ResidualSummary
    from loragraft.merging import MergeResult

    #: Changes the tensors of a checkpoint in place.
    Change = Callable[[dict[str, Array]], object]


#: A fraction of the distance of two stored numbers of the size of the weights.
NOISE = {"BF16": 1e-4, "F16": 1e-5, "F32": 1e-9}


@dataclass(frozen=True)
class Lossless:
    """A pair, its adapter, and the residual that lies there."""

    base: Path
    tuned: Path
    adapter: Path
    summary: ResidualSummary

    @property
    def residual(self) -> Path:
        return self.adapter / RESIDUAL_FILE

    def stored(self) -> dict[str, str]:
        """How each tensor is stored."""
        return {entry["name"]: entry["stored"] for entry in self.manifest()["tensors"]}

    def manifest(self) -> Any:
        with safe_open(self.residual, "np") as file:
            return json.loads(file.metadata()[MANIFEST_KEY])

    def rewrite(
        self,
        *,
        tensors: Change = lambda _: None,
        manifest: Callable[[Any], Any] = lambda content: content,
        key: str = MANIFEST_KEY,
    ) -> None:
        """Write the residual anew with other tensors, or another manifest (an object or text)."""
        held, content = load_file(self.residual), self.manifest()
        tensors(held)
        content = manifest(content)
        text = content if isinstance(content, str) else json.dumps(content)
        save_file(held, self.residual, metadata={key: text})


def write_pair(
    tmp_path: Path,
    *,
    before: str = "BF16",
    after: str = "BF16",
    shards: int = 1,
    change: Change = lambda _: None,
    change_base: Change = lambda _: None,
) -> tuple[Path, Path]:
    """BASE and TUNED; three modules differ by factors and noise, and by what is changed beside."""
    base = random_weights(dtype="F32")
    tuned = add_delta(base, random_factors(ADAPTED, RANK, scale=0.1), dtype="F32")
    rng, noise = np.random.default_rng(7), NOISE[after]
    for name in ADAPTED:
        tuned[f"{name}.weight"] += noise * rng.standard_normal(tuned[f"{name}.weight"].shape)
    sides = []
    for directory, tensors, dtype, then, count in (
        ("base", base, before, change_base, shards),
        ("tuned", tuned, after, change, 2),
    ):
        # TUNED is made from what BASE stores, as a fine-tuning is.
        stored = {
            name: array.astype(NUMPY_DTYPES[before]).astype(NUMPY_DTYPES[dtype])
            if array is base.get(name)
            else array.astype(NUMPY_DTYPES[dtype])
            for name, array in tensors.items()
        }
        then(stored)
        sides.append(write_checkpoint(tmp_path / directory, stored, shards=count))
    return sides[0], sides[1]


def patched(
    base: Path, tuned: Path, adapter: Path, *, limit: int | None = None, **options: Any
) -> Lossless:
    """Extract an adapter and write its residual."""
    settings = {"rank": RANK, "dtype": "fp16", **options}
    # As an extraction does, which writes the config last.
    config = loragraft.extract(base, tuned, adapter, **settings).config
    summary = residual_of(base, tuned, adapter, config, limit=limit)
    return Lossless(base, tuned, adapter, summary)


def residual_of(
    base: Path,
    tuned: Path,
    adapter: Path,
    config: Mapping[str, Any] | None = None,
    *,
    limit: int | None = None,
) -> ResidualSummary:
    sides = open_checkpoint(base), open_checkpoint(tuned)
    read = read_adapter(adapter, config)
    return write_residual(*sides, read, adapter / RESIDUAL_FILE, limit=limit)


def check_identical(made: Lossless, out: Path) -> MergeResult:
    """Merge with the residual and compare every tensor with TUNED's."""
    result = loragraft.merge(made.base, made.adapter, out, patch=True)
    found, wanted = open_checkpoint(out), open_checkpoint(made.tuned)
    assert found.tensors.keys() == wanted.tensors.keys()
    with TensorBytes() as reader:
        for name, entry in wanted.tensors.items():
            same = found.tensors[name]
            assert (same.dtype, same.shape) == (entry.dtype, entry.shape)
            assert reader.raw(same) == reader.raw(entry), name
    assert result.identical == result.tensors == len(wanted.tensors)
    assert sum(made.summary.tensors.values()) == len(wanted.tensors)
    assert made.summary.written
    assert made.summary.nbytes == made.residual.stat().st_size
    return result
