"""The index of a sharded checkpoint: which tensor lies in which file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.errors import FormatError
from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.natural_order import natural_key
from loragraft.wording import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

INDEX_NAME: Final = "model.safetensors.index.json"
_MAX_INDEX_BYTES: Final = 200_000_000


class ShardIndex(NamedTuple):
    """A shard index.

    Attributes:
        path: The index file.
        weight_map: Tensor name to shard file name.
        shards: The shard file names in natural order; plain names in the index's directory.
    """

    path: Path
    weight_map: Mapping[str, str]
    shards: tuple[str, ...]

    def check(self, found: Mapping[str, str]) -> None:
        """Check the index against what the shards hold.

        Args:
            found: Tensor name to the name of the shard that holds it.

        Raises:
            FormatError: A tensor of the index is in no shard or in another.
        """
        for name, shard in self.weight_map.items():
            actual = found.get(name)
            if actual == shard:
                continue
            holder = f"{quoted(actual)} holds it" if actual else "no shard holds it"
            raise FormatError(
                f"{shown(self.path)}: says that tensor {quoted(name)} is in {quoted(shard)}, but"
                f" {holder}: fetch the checkpoint again"
            )


def read_index(path: Path) -> ShardIndex:
    """Read a ``model.safetensors.index.json``.

    Raises:
        FormatError: The index is malformed, or names a file outside its directory.
    """
    where = shown(path)
    weight_map = parse_object(read_bytes(path, _MAX_INDEX_BYTES), where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(
            f"{where}: weight_map is {quoted(weight_map)}, expected an object that names the shard"
            " of every tensor"
        )
    for name, shard in weight_map.items():
        if not _is_shard_name(shard):
            raise FormatError(
                f"{where}: tensor {quoted(name)} is said to be in {quoted(shard)}, expected the"
                " name of a .safetensors file in the same directory"
            )
    shards = tuple(sorted(set(weight_map.values()), key=natural_key))
    return ShardIndex(path, weight_map, shards)


def _is_shard_name(shard: Any) -> bool:
    """Whether a shard name stays in the directory: a plain file name, without any separator."""
    return (
        isinstance(shard, str)
        and shard.isprintable()
        and shard.endswith(".safetensors")
        and "/" not in shard
        and "\\" not in shard
    )
