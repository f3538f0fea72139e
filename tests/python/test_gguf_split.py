"""Models in several GGUF files: no tensor may be in two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError
from raw_gguf import STRING, U16, U32, entry, raw_gguf, string, tensor, u32

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = {"block_count": 1, "attention.head_count": 2, "attention.head_count_kv": 2}


def write_parts(directory: Path, *names: str) -> Path:
    """Write a part for each tensor, all of 8 x 8; return the first."""
    settings = [entry("general.architecture", STRING, string("llama"))]
    settings += [entry(f"llama.{key}", U32, u32(number)) for key, number in NUMBERS.items()]
    settings.append(entry("split.count", U16, len(names).to_bytes(2, "little")))
    paths = []
    for number, name in enumerate(names, 1):
        paths.append(directory / f"x-{number:05}-of-{len(names):05}.gguf")
        paths[-1].write_bytes(raw_gguf(settings, [tensor(name, (8, 8))], bytes(256)))
    return paths[0]


def test_parts_are_one_model(tmp_path: Path) -> None:
    first = write_parts(tmp_path, "blk.0.attn_q.weight", "blk.0.attn_v.weight")
    found = open_checkpoint(first, gguf=True)
    assert {name.rpartition("self_attn.")[2] for name in found.tensors} == {
        "q_proj.weight",
        "v_proj.weight",
    }
    assert len(found.shards) == 2


def test_a_tensor_in_two_parts(tmp_path: Path) -> None:
    first = write_parts(tmp_path, "blk.0.attn_q.weight", "blk.0.attn_q.weight")
    with pytest.raises(FormatError, match=r"x-00002-of-00002\.gguf: .*attn_q\.weight.* twice"):
        open_checkpoint(first, gguf=True)
