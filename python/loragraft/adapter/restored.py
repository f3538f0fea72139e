"""What an adapter puts in place of tensors of its base, or of rows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.adapter.contents import BY_BIAS, BY_MODULES, by_tokens, whole_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loragraft.adapter.peft import PeftAdapter
    from loragraft.tensor_entry import TensorEntry

_WRAPPER: Final = ".base_layer."


class Restored(NamedTuple):
    """A tensor of the adapter that is no factor.

    Attributes:
        source: The tensor.
        how: How it is carried, in the words of a report.
        tokens: Numbers of the rows that its rows replace; None where it replaces a whole tensor.
    """

    source: TensorEntry
    how: str
    tokens: tuple[int, ...] | None = None


class Restoration(NamedTuple):
    """All of these.

    Attributes:
        tensors: Name in memory of what is replaced -> what replaces it.
        strays: Name in the adapter's file of any other tensor -> what PEFT does with it.
    """

    tensors: Mapping[str, Restored]
    strays: Mapping[str, str]


def restored_by(adapter: PeftAdapter) -> Restoration:
    """Sort what an adapter carries beside its factors by the tensors that it is meant for.

    Raises:
        FormatError: Its config and its tensors contradict each other.
    """
    found = whole_tensors(adapter.config, adapter.other_tensors)
    wrapped = {module.name for module in adapter.modules}
    tensors = {
        f"{module}.{key}": Restored(entry, BY_MODULES)
        for module, parts in found.modules.items()
        for key, entry in parts.items()
    }
    tensors.update(
        (f"{module}.weight", Restored(rows.rows, by_tokens(len(rows.tokens)), rows.tokens))
        for module, rows in found.tokens.items()
    )
    strays = dict.fromkeys(found.strays, "PEFT loads it over the base's, or not at all")
    for module, entry in found.biases.items():
        # A bias under another name than its layer's has in memory does not reach it.
        if (module in wrapped) == (_WRAPPER in entry.name):
            tensors[f"{module}.bias"] = Restored(entry, BY_BIAS)
        else:
            strays[entry.name] = "PEFT finds no layer of that name"
    return Restoration(tensors, strays)


def kinds_of(adapter: PeftAdapter) -> Iterator[tuple[str, int]]:
    """Yield what an adapter carries beside its factors, by kind, and how many tensors.

    Raises:
        FormatError: Its config and its tensors contradict each other.
    """
    found = whole_tensors(adapter.config, adapter.other_tensors)
    counts: dict[str, int] = {}
    for module, parts in found.modules.items():
        kind = f"of whole {_last(module)}"
        counts[kind] = counts.get(kind, 0) + len(parts)
    for module in found.biases:
        kind = f"bias of {_last(module)}"
        counts[kind] = counts.get(kind, 0) + 1
    for module, rows in found.tokens.items():
        kind = f"with {len(rows.tokens)} token rows of {_last(module)}"
        counts[kind] = counts.get(kind, 0) + 1
    yield from counts.items()
    if found.copies:
        yield "copy that PEFT does not merge", len(found.copies)
    if found.strays:
        yield "no LoRA factor", len(found.strays)


def _last(module: str) -> str:
    return module.rpartition(".")[2]
