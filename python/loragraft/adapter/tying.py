"""The token embedding and the output head of a model, and whether they are one matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.architecture.families import family_of
from loragraft.architecture.naming import first_architecture, is_bare
from loragraft.architecture.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loragraft.checkpoint import Checkpoint, TensorEntry

#: What transformers calls the embedding that the model's tokens go through.
_TOKENS: Final = frozenset(
    {"embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "embeddings", "shared"}
)
#: What transformers calls the head of a class that may do without a tensor for it.
TIED_HEAD: Final = "lm_head"
_WITH_HEAD: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
#: Classes whose head, tied unless config.json denies it, has a name of the family's own.
_WITH_OTHER_HEAD: Final = ("ForMaskedLM", "ForPreTraining")
_WEIGHT: Final = ".weight"


class Matrix(NamedTuple):
    """A matrix with one row for every token.

    Attributes:
        path: Its module on disk; empty where it has no tensor of its own.
        entry: Its tensor, or the one that it shares.
    """

    path: str
    entry: TensorEntry


class Vocabulary(NamedTuple):
    """Where a checkpoint turns tokens into vectors and back.

    Attributes:
        embedding: The token embedding, None where there is none, or several.
        head: The head; its entry is the embedding's where they are tied. None where the model has
            none.
        tied: Head and embedding are one matrix in memory.
        unclear: The embedding may be one matrix with others that no file names.
    """

    embedding: Matrix | None
    head: Matrix | None
    tied: bool = False
    unclear: bool = False


def is_token_embedding(module: str) -> bool:
    """Say whether a module's name is that of a token embedding."""
    return module.rpartition(".")[2] in _TOKENS


def vocabulary_of(checkpoint: Checkpoint) -> Vocabulary:
    """Find embedding and head of a checkpoint from its names and config.json.

    A head without a tensor is tied, unless config.json denies it; one with a tensor is tied where
    config.json says so, because loaders then take the embedding whatever the file holds.
    """
    config = checkpoint.config or {}
    embeddings = [m for m in _matrices(checkpoint) if is_token_embedding(m.path)]
    embedding = embeddings[0] if len(embeddings) == 1 else None
    family = family_of(checkpoint.config)
    head = next((m for m in _matrices(checkpoint) if family.role(m.path) is Role.HEAD), None)
    architecture = first_architecture(checkpoint.config) or ""
    flag = config.get("tie_word_embeddings")
    if flag is not False and config.get("is_encoder_decoder"):
        return Vocabulary(embedding, head, unclear=True)
    if is_bare(architecture):
        return Vocabulary(embedding, None)
    if head is None:
        return _without_head(embedding, architecture, denied=flag is False)
    if embedding is None or flag is not True:
        return Vocabulary(embedding, head)
    return Vocabulary(embedding, Matrix(head.path, embedding.entry), tied=True)


def _without_head(embedding: Matrix | None, architecture: str, *, denied: bool) -> Vocabulary:
    """Return what a checkpoint without a tensor for a head has."""
    if denied or not architecture.endswith((*_WITH_HEAD, *_WITH_OTHER_HEAD)):
        return Vocabulary(embedding, None)
    if embedding is None or architecture.endswith(_WITH_OTHER_HEAD):
        return Vocabulary(embedding, None, unclear=True)
    return Vocabulary(embedding, Matrix("", embedding.entry), tied=True)


def _matrices(checkpoint: Checkpoint) -> Iterator[Matrix]:
    """Yield the weights outside the blocks that have a row per token, by name and shape."""
    for name, entry in checkpoint.tensors.items():
        # Blocks are numbered; neither embedding nor head lies in one.
        if name.endswith(_WEIGHT) and len(entry.shape) == 2:
            path = name.removesuffix(_WEIGHT)
            if not any(part.isdigit() for part in path.split(".")):
                yield Matrix(path, entry)
