"""Tensors of the base that an adapter replaces, or rows of which it replaces.

What PEFT makes of them when it merges: a module in ``modules_to_save`` and a bias take the place of
the base's, rows those of an embedding and of a head that is tied to it. All of it is held in the
base's dtype by then, hence rounded to it, nearest with ties to even.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loragraft.adapter.restored import restored_by
from loragraft.adapter.tensor_names import owner_of, tensors_in_memory
from loragraft.adapter.tokens import same_bytes
from loragraft.adapter.tying import is_token_embedding
from loragraft.errors import MismatchError
from loragraft.number_formats import WEIGHT_DTYPES
from loragraft.wording import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from loragraft.adapter.peft import PeftAdapter
    from loragraft.adapter.restored import Restored
    from loragraft.adapter.tensor_names import NamedTensors
    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_bytes import TensorBytes
    from loragraft.tensor_entry import TensorEntry

_SHOWN: Final = 3
_UNTIES: Final = (
    "the base has one matrix for embedding and head, of which the adapter replaces one alone or"
    " both by different ones"
)


def replacements(
    adapter: PeftAdapter,
    base: Checkpoint,
    adapted: AbstractSet[str],
    reader: TensorBytes,
    *,
    lenient: bool = False,
) -> dict[str, Restored]:
    """Return what replaces tensors of the base, by their names in its files.

    Args:
        adapter: The adapter.
        base: What it is merged into.
        adapted: Tensors that LoRA factors change.
        reader: Reads the adapter.
        lenient: Pass over what has no place in the base, instead of refusing.

    Raises:
        FormatError: The adapter's config and its tensors contradict each other.
        MismatchError: A tensor of the adapter has no place in the base.
    """
    if not adapter.other_tensors:
        return {}
    restoration = restored_by(adapter)
    (memory,) = tensors_in_memory(base)
    misfits = dict(restoration.strays)
    found: dict[str, Restored] = {}
    untied = not _keeps_tie(memory, restoration.tensors, reader)
    for name, restored in restoration.tensors.items():
        entries = _places(name, memory, restored)
        why = _why_not_shared(name, memory, untied=untied)
        why = why or _why_not(memory.tensors.get(name), restored)
        if not adapted.isdisjoint(entry.name for entry in entries):
            why = why or "the base's has LoRA factors too"
        if why:
            misfits[restored.source.name] = why
        else:
            found.update((entry.name, restored) for entry in entries)
    if misfits and not lenient:
        raise _refusal(adapter, base, misfits)
    return found


def _places(name: str, memory: NamedTensors, restored: Restored) -> list[TensorEntry]:
    """Return the tensors of the base that one in memory comes from."""
    entries = [memory.tensors[name]] if name in memory.tensors else []
    # Other loaders may take what lies under the head's own name.
    if name in memory.tied and memory.ignored and not _why_not(memory.ignored, restored):
        entries.append(memory.ignored)
    return entries


def _why_not(entry: TensorEntry | None, restored: Restored) -> str:
    """Return why a tensor cannot take up what replaces it, empty where it can."""
    if entry is None:
        return "the base has no tensor of that name"
    source, tokens = restored.source, restored.tokens
    if entry.dtype != source.dtype and not {entry.dtype, source.dtype} <= set(WEIGHT_DTYPES):
        return f"it is {source.dtype}, and the base's is stored as {entry.dtype}"
    shapes = f"it is of shape {list(source.shape)}, and the base's of {list(entry.shape)}"
    if len(entry.shape) != 2 or source.shape[1:] != entry.shape[1:]:
        return "" if tokens is None and source.shape == entry.shape else shapes
    if tokens is None:
        rows, what = source.shape[0], shapes
        fits = rows == entry.shape[0]
    else:
        rows = max(tokens, default=-1) + 1
        what = f"it replaces row {rows - 1}, and the base's has {entry.shape[0]}"
        fits = rows <= entry.shape[0]
    if rows > entry.shape[0]:
        what += f": call resize_token_embeddings({rows}) on the base and save it first"
    return "" if fits else what


def _why_not_shared(name: str, memory: NamedTensors, *, untied: bool) -> str:
    """Return why a matrix that is not of its module alone cannot be replaced."""
    if memory.unclear and is_token_embedding(owner_of(name)):
        return "it may share its weight with others, which no file tells"
    return _UNTIES if untied and name in memory.tied else ""


def _keeps_tie(memory: NamedTensors, restored: Mapping[str, Restored], reader: TensorBytes) -> bool:
    """Say whether embedding and head are one matrix still; rows of the embedding reach both."""
    embedding, head = (restored.get(name) for name in memory.tied or ("", ""))
    if embedding is None:
        return head is None
    if head is None:
        return embedding.tokens is not None
    return embedding.tokens == head.tokens and same_bytes(reader, embedding.source, head.source)


def _refusal(adapter: PeftAdapter, base: Checkpoint, misfits: Mapping[str, str]) -> MismatchError:
    names = sorted(misfits)
    listed = ", ".join(f"{name} ({misfits[name]})" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return MismatchError(
        f"{shown(adapter.directory)}: tensors that are no LoRA factors cannot be merged into"
        f" {shown(base.reference)}: {listed}{more}; give the base that the adapter was made for,"
        " or merge with PEFT"
    )
