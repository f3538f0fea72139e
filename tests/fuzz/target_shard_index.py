"""The index of a sharded checkpoint. An input is the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import json_mutation
from loragraft.shard_index import INDEX_NAME, read_index
from target import refusals, scratch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

_WORDS = ("weight_map", "metadata", "a.safetensors", "../a.safetensors", "a\\b.safetensors",
          "/etc/x.safetensors", ".safetensors", "a-00001-of-00002.safetensors")  # fmt: skip


def seeds() -> Iterator[bytes]:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    plain = {f"model.layers.{i}.mlp.up_proj.weight": shards[i % 2] for i in range(4)}
    for index in (
        {"weight_map": plain, "metadata": {"total_size": 123}},
        {"weight_map": {"a": "x.safetensors"}},
        {"weight_map": {}},
        {"weight_map": {"a": "../x.safetensors"}},
        {},
    ):
        yield json.dumps(index).encode()


def check(data: bytes) -> None:
    path = scratch() / INDEX_NAME
    path.write_bytes(data)
    with refusals():
        index = read_index(path)
        for shard in index.shards:
            assert (path.parent / shard).parent == path.parent
            assert shard.endswith(".safetensors")
        assert set(index.shards) == set(index.weight_map.values())
        index.check(dict(index.weight_map))
        index.check(dict.fromkeys(index.weight_map, index.shards[0]))


def mutate(data: bytes, random: Random) -> bytes:
    return json_mutation.mutate(data, random, _WORDS)
