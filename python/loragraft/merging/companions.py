"""The small files that make weights a model: configuration, tokenizer, templates."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loragraft.input_file import read_bytes
from loragraft.json_text import parse_object
from loragraft.number_formats import WEIGHT_DTYPES, nbytes_of
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loragraft.checkpoint import Checkpoint
    from loragraft.safetensors_writer import Layout

CONFIG: Final = "config.json"
_MAX_BYTES: Final = 1 << 28
_KNOWN: Final = (
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.*",
    "preprocessor_config.json",
    "processor_config.json",
)
#: Of a whole model directory, but not of the directory that a single file happens to lie in.
_ANY: Final = ("*.json", "*.jinja", "*.model")
_NEVER: Final = (CONFIG, "*.index.json", "adapter_config.json", "report.json")
_TORCH_NAMES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def companion_files(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """Return the files to copy beside the weights, sorted; config.json is not among them."""
    patterns = _KNOWN if Path(checkpoint.reference).is_file() else (*_KNOWN, *_ANY)
    return tuple(
        path
        for path in sorted(checkpoint.directory.iterdir())
        if _fits(path.name, patterns) and not _fits(path.name, _NEVER) and path.is_file()
    )


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_companion(path: Path) -> bytes:
    """Return a small file's content.

    Raises:
        FormatError: It cannot be read, or is larger than 256 MiB.
    """
    return read_bytes(path, _MAX_BYTES)


def config_bytes(checkpoint: Checkpoint, dtype: str | None) -> bytes | None:
    """Return the config.json of the merged model, None where the base has none.

    Args:
        checkpoint: The base.
        dtype: Safetensors code that all weights are stored in; None keeps the file as it is.
    """
    if checkpoint.config is None:
        return None
    data = read_companion(checkpoint.directory / CONFIG)
    if dtype is None:
        return data
    config = parse_object(data, shown(checkpoint.directory / CONFIG), strict=False)
    return _json_bytes(_with_dtype(config, _TORCH_NAMES[dtype]))


def changed_dtype(base: Checkpoint, layouts: Iterable[Layout]) -> str | None:
    """Return the dtype that most weights are written in, None where it is that of the base's."""
    before = _main_dtype((e.name, e.dtype, e.shape) for e in base.tensors.values())
    after = _main_dtype(layouts)
    return after if after != before else None


def _main_dtype(layouts: Iterable[Layout]) -> str | None:
    """Return the dtype of weights that holds the most bytes."""
    sizes = dict.fromkeys(WEIGHT_DTYPES, 0)
    for layout in layouts:
        if layout[1] in sizes:
            sizes[layout[1]] += nbytes_of(layout)
    largest = max(WEIGHT_DTYPES, key=sizes.__getitem__)
    return largest if sizes[largest] else None


def index_bytes(
    index: Path, total_size: int | None, weight_map: Mapping[str, str] | None = None
) -> bytes:
    """Return the shard index of the merged model.

    Args:
        index: The base's.
        total_size: Bytes of all tensors; None keeps the file as it is.
        weight_map: Tensor -> name of the file that holds it; None keeps the base's.
    """
    data = read_companion(index)
    if total_size is None:
        return data
    content = parse_object(data, shown(index))
    metadata = content.get("metadata")
    content["metadata"] = {
        **(metadata if isinstance(metadata, dict) else {}),
        "total_size": total_size,
    }
    if weight_map is not None:
        content["weight_map"] = dict(weight_map)
    return _json_bytes(content)


def _with_dtype(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Replace every dtype that a configuration states, nested ones too."""
    changed = dict(config)
    for key, value in config.items():
        if isinstance(value, dict):
            changed[key] = _with_dtype(value, name)
        elif key in {"dtype", "torch_dtype"} and isinstance(value, str):
            changed[key] = name
    return changed


def _json_bytes(content: dict[str, Any]) -> bytes:
    # What UTF-8 lacks, half a surrogate pair, becomes the escape that JSON has for it.
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")
