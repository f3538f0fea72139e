"""The tensors of a checkpoint by their names in memory, which are those that adapters use."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loragraft.adapter.tying import TIED_HEAD, vocabulary_of
from loragraft.architecture.families import family_of
from loragraft.architecture.naming import name_modules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from loragraft.adapter.tying import Vocabulary
    from loragraft.checkpoint import Checkpoint
    from loragraft.tensor_entry import TensorEntry


class NamedTensors(NamedTuple):
    """A checkpoint as a model in memory has it.

    Attributes:
        tensors: Name in memory -> tensor; a tied head has the embedding's.
        tied: Names of the weights of embedding and head where they are one, else empty.
        ignored: What the file holds under the name of a tied head, which loaders ignore.
        unclear: Embeddings may be one matrix with others that no file names.
    """

    tensors: Mapping[str, TensorEntry]
    tied: tuple[str, ...] = ()
    ignored: TensorEntry | None = None
    unclear: bool = False


def tensors_in_memory(base: Checkpoint, *others: Checkpoint) -> tuple[NamedTensors, ...]:
    """Return a base and checkpoints made from it, each by the names that adapters use.

    Raises:
        FormatError: Two tensors of a checkpoint belong to the same module.
    """
    sides = (base, *others)
    names = [tensor_names(side, base) for side in sides]
    vocabularies = [vocabulary_of(side) for side in sides]
    head = f"{head_name(vocabularies, names)}.weight"
    found = []
    for side, table, vocabulary in zip(sides, names, vocabularies, strict=True):
        tensors = {name: side.tensors[raw] for raw, name in table.items()}
        if not vocabulary.tied or vocabulary.embedding is None:
            found.append(NamedTensors(tensors, unclear=vocabulary.unclear))
            continue
        entry = vocabulary.embedding.entry
        ignored = tensors.get(head)
        found.append(NamedTensors({**tensors, head: entry}, (table[entry.name], head), ignored))
    return tuple(found)


def head_name(sides: Iterable[Vocabulary], names: Iterable[Mapping[str, str]]) -> str:
    """Return the path of the head in memory, which only sides with a tensor for it tell."""
    for side, table in zip(sides, names, strict=True):
        if side.head is not None and side.head.path:
            return owner_of(table[f"{side.head.path}.weight"])
    return TIED_HEAD


def tensor_names(checkpoint: Checkpoint, base: Checkpoint) -> dict[str, str]:
    """Return the name in memory of every tensor.

    Raises:
        FormatError: Two tensors belong to the same module.
    """
    config = base.config if checkpoint.config is None else checkpoint.config
    paths = {owner_of(name) for name in checkpoint.tensors} - {""}
    # A family's renames speak of the modules in a module, so a parameter stands in for one.
    bare = {name for name in checkpoint.tensors if not name.endswith((".weight", ".bias"))}
    names = name_modules(paths | bare, family_of(config), config)
    for inner in list(names):
        for path in containers_of(inner):
            if path in paths and names[inner].endswith(inner[len(path) :]):
                names[path] = names[inner].removesuffix(inner[len(path) :])
    return {
        name: f"{names[path]}.{last}" if path else last
        for name in checkpoint.tensors
        for path, _, last in [name.rpartition(".")]
    }


def owner_of(tensor: str) -> str:
    """Return the path of the module that a tensor belongs to."""
    return tensor.rpartition(".")[0]


def containers_of(path: str) -> Iterator[str]:
    """Yield the paths of the modules that contain a module or tensor."""
    position = path.find(".")
    while position >= 0:
        yield path[:position]
        position = path.find(".", position + 1)
