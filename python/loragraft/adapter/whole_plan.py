"""What ``--save-whole`` writes: tensors, and what adapter_config.json says of them.

All of it is what peft 0.21.2 loads, found out by loading it:

- A module in ``modules_to_save`` needs every tensor of its state in the file, under the name of the
  model. An entry hits every module whose path ends with it, at a dot or not, and keeps LoRA off
  every module that has it as a part of its path.
- From 512 entries on PEFT compiles a regular expression anew for every entry and module, and takes
  minutes: modules in blocks get one entry per kind, and of norms all blocks are written or none.
- A head that is tied to the embedding must be in the list and in the file too, with
  ``ensure_weight_tying``. Rows in ``trainable_token_indices`` tie themselves.
- A tensor ``X.base_layer.bias`` is loaded over the base model's bias, ``bias`` says so.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loragraft.adapter.contents import BY_BIAS, BY_MODULES, by_tokens
from loragraft.adapter.tokens import changed_rows, handful, row_spans, same_bytes, token_key
from loragraft.adapter.whole import WholeKind
from loragraft.natural_order import natural_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from loragraft.adapter.whole import Candidates, Part, Refusal, WholeModule
    from loragraft.tensor_bytes import TensorBytes
    from loragraft.tensor_entry import TensorEntry

_PREFIX: Final = "base_model.model."
_CHUNK_BYTES: Final = 8 << 20


class SaveWhole(StrEnum):
    """What to carry beside LoRA factors."""

    NONE = "none"
    NORMS = "norms"
    EMBEDDINGS = "embeddings"
    ALL = "all"


_KINDS: Final = {
    SaveWhole.NONE: frozenset[WholeKind](),
    SaveWhole.NORMS: frozenset({WholeKind.NORM}),
    SaveWhole.EMBEDDINGS: frozenset({WholeKind.EMBEDDING, WholeKind.HEAD}),
    SaveWhole.ALL: frozenset(WholeKind),
}


class SavedTensor(NamedTuple):
    """A tensor of the adapter's file that is copied from the tuned checkpoint.

    Attributes:
        key: Its name in the file.
        dtype: Safetensors code.
        shape: Its dimensions.
        source: The tensor that it is, or is made of.
        spans: (start, stop) of its bytes in the source's, one after the other.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    source: TensorEntry
    spans: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return sum(stop - start for start, stop in self.spans)


class WholePlan(NamedTuple):
    """What an adapter carries beside its factors.

    Attributes:
        tensors: What to copy.
        config: Keys of adapter_config.json to set; those at their default are absent.
        saved: Name of a changed tensor -> how it is carried.
        refused: Name of a changed tensor -> why it cannot be carried.
        rows: Rows that the base's embeddings must be resized to before the adapter is loaded,
            None where they have the right size.
    """

    tensors: tuple[SavedTensor, ...] = ()
    config: Mapping[str, Any] = {}
    saved: Mapping[str, str] = {}
    refused: Mapping[str, str] = {}
    rows: int | None = None


def plan_whole(
    candidates: Candidates,
    what: SaveWhole,
    unchanged: Collection[str],
    reader: TensorBytes | None,
) -> WholePlan:
    """Choose what to carry.

    Args:
        candidates: What could be.
        what: What the user asked for.
        unchanged: Names of tensors that are equal on both sides.
        reader: Reads embeddings, to see whether few of their rows changed; with None, as before a
            run, all of a changed embedding is taken.
    """
    return _Plan(candidates, what, unchanged, reader).make()


def offers(
    candidates: Candidates, what: SaveWhole, unchanged: Collection[str], reader: TensorBytes
) -> list[str]:
    """Return what options other than the one chosen would carry, a sentence for each.

    Args:
        candidates: What could be carried.
        what: What the user asked for.
        unchanged: Names of tensors that are equal on both sides.
        reader: Reads embeddings.
    """
    told = set(plan_whole(candidates, what, unchanged, None).saved)
    sentences = []
    for option in (SaveWhole.NORMS, SaveWhole.EMBEDDINGS, SaveWhole.ALL):
        # Of embeddings the rows are looked at once.
        look = reader if option is SaveWhole.EMBEDDINGS else None
        plan = plan_whole(candidates, option, unchanged, look)
        new = [name for name in plan.saved if name not in told]
        told.update(new)
        if new:
            more = "" if len(new) == 1 else f" and {len(new) - 1} more"
            sentences.append(
                f"--save-whole {option} would carry {new[0]} ({plan.saved[new[0]]}){more}"
            )
    return sentences


def read_spans(reader: TensorBytes, tensor: SavedTensor) -> Iterator[tuple[int, bytes]]:
    """Yield a tensor's bytes in pieces, each with its place in the tensor."""
    place = 0
    for start, stop in tensor.spans:
        for position in range(start, stop, _CHUNK_BYTES):
            data = reader.raw_part(tensor.source, position, min(stop, position + _CHUNK_BYTES))
            yield place, bytes(data)
            place += len(data)


class _Plan:
    """One run of `plan_whole`."""

    def __init__(
        self,
        candidates: Candidates,
        what: SaveWhole,
        unchanged: Collection[str],
        reader: TensorBytes | None,
    ) -> None:
        self._candidates = candidates
        self._what = what
        self._unchanged = unchanged
        self._reader = reader
        self._tensors: list[SavedTensor] = []
        self._saved: dict[str, str] = {}
        self._refused = {
            name: refusal.why
            for refusal in candidates.refused
            if self._differs(refusal)
            for name in refusal.tensors
        }
        self._tokens: dict[str, list[int]] = {}
        self._config: dict[str, Any] = {}

    def make(self) -> WholePlan:
        if self._what is SaveWhole.NONE:
            return WholePlan(refused=self._refused)
        modules = [m for m in self._chosen() if not self._takes_rows(m)]
        self._save(modules)
        if self._what is SaveWhole.ALL:
            self._save_biases()
        if self._tokens:
            self._config["trainable_token_indices"] = self._tokens
        tensors = tuple(sorted(self._tensors, key=lambda tensor: natural_key(tensor.key)))
        return WholePlan(tensors, self._config, self._saved, self._refused, self._rows())

    def _chosen(self) -> list[WholeModule]:
        """Return the modules to carry: asked for, changed, and not part of another."""
        asked = [m for m in self._candidates.modules if m.kind in _KINDS[self._what]]
        norms = {_tail(m.name) for m in asked if m.kind is WholeKind.NORM and self._changed(m)}
        chosen = {
            module.name: module
            for module in asked
            if self._changed(module)
            or (module.kind is WholeKind.NORM and _tail(module.name) in norms)
        }
        inner = [name for name in chosen if not chosen.keys().isdisjoint(_containers(name))]
        for name in inner:
            del chosen[name]
        self._add_hits(chosen, {module.name: module for module in asked})
        return [module for module in chosen.values() if self._is_possible(module)]

    def _add_hits(self, chosen: dict[str, WholeModule], asked: Mapping[str, WholeModule]) -> None:
        """Add the modules whose paths end with that of a chosen one: PEFT wants them all."""
        while hits := self._hits(chosen):
            more = {hit: asked[hit] for hit in hits if hit in asked}
            chosen.update(more)
            for name in [] if more else [n for n in chosen if any(h.endswith(n) for h in hits)]:
                why = "its path ends that of another module, which PEFT would replace as well"
                self._refuse(chosen.pop(name), why)

    def _hits(self, chosen: Collection[str]) -> set[str]:
        ends = tuple(chosen)
        known = self._candidates.known.difference(chosen)
        return {name for name in known if name.endswith(ends)} if ends else set()

    def _changed(self, module: WholeModule) -> bool:
        return any(part.own and self._differs(part) for part in module.parts)

    def _differs(self, part: Part | Refusal) -> bool:
        """Say whether a tensor changed; where nobody compared the two names, look."""
        base, tuned = part.base, part.tuned
        if base is None or tuned is None or base.name == tuned.name:
            return part.tensors[0] not in self._unchanged
        return self._reader is None or not same_bytes(self._reader, base, tuned)

    def _refuse(self, module: WholeModule, why: str) -> None:
        self._refused.update((name, why) for part in module.parts for name in part.tensors)

    def _is_possible(self, module: WholeModule) -> bool:
        """Say whether PEFT can carry a module beside the factors; note why where it cannot."""
        tied, adapted = self._candidates.tied, self._candidates.adapted
        why = ""
        if module.name in tied and adapted.intersection(tied):
            why = f"tied to {min(adapted.intersection(tied))}, which has LoRA factors"
        elif self._excludes(module.name):
            why = "PEFT would keep LoRA off an adapted layer, whose path contains this one's"
        if why:
            self._refuse(module, why)
        return not why

    def _takes_rows(self, module: WholeModule) -> bool:
        """Carry a module as a handful of rows where that says all."""
        weights = [part for part in module.parts if part.key == "weight"]
        if not module.tokens or len(module.parts) != 1 or not weights or self._reader is None:
            return False
        base, tuned = weights[0].base, weights[0].tuned
        if len(tuned.shape) != 2 or base.shape[1:] != tuned.shape[1:]:
            return False
        # Rows of a tied embedding reach the head as well, which on the other side is another.
        if self._candidates.retied:
            return False
        rows = changed_rows(self._reader, base, tuned, handful(tuned.shape[0]))
        if not rows:
            return False
        self._tokens[module.name] = list(rows)
        shape = (len(rows), tuned.shape[1])
        spans = row_spans(tuned, rows)
        self._tensors.append(SavedTensor(token_key(module.name), tuned.dtype, shape, tuned, spans))
        how = by_tokens(len(rows))
        self._saved.update(dict.fromkeys(weights[0].tensors, how))
        return True

    def _save(self, modules: Sequence[WholeModule]) -> None:
        names = {module.name for module in modules}
        for module in modules:
            for part in module.parts:
                self._add(f"{module.name}.{part.key}", part, BY_MODULES)
        tied = self._candidates.tied
        if tied and tied[0] in names:
            embedding = next(module for module in modules if module.name == tied[0])
            names.add(tied[1])
            self._config["ensure_weight_tying"] = True
            for part in embedding.parts:
                self._add(f"{tied[1]}.{part.key}", part, BY_MODULES)
        if names:
            self._config["modules_to_save"] = self._entries(names)

    def _save_biases(self) -> None:
        changed = [part for part in self._candidates.biases if self._differs(part)]
        for part in changed:
            self._add(part.key, part, BY_BIAS)
        if changed:
            factored = all(".base_layer." in part.key for part in changed)
            self._config["bias"] = "lora_only" if factored else "all"

    def _add(self, key: str, part: Part, how: str) -> None:
        entry = part.tuned
        spans = ((0, entry.nbytes),) if entry.nbytes else ()
        tensor = SavedTensor(_PREFIX + key, entry.dtype, entry.shape, entry, spans)
        self._tensors.append(tensor)
        self._saved.update((name, how) for name in part.tensors if name not in self._unchanged)

    def _rows(self) -> int | None:
        """Return the size of the vocabulary that the tensors need, None where the base has it."""
        sizes = {
            part.tuned.shape[0]
            for module in self._candidates.modules
            for part in module.parts
            if module.tokens
            and part.tuned.name in self._saved
            and part.base.shape[:1] != part.tuned.shape[:1]
            # Rows that replace others do without the base's surplus.
            and (module.name not in self._tokens or part.base.shape[0] < part.tuned.shape[0])
        }
        return max(sizes, default=None)

    def _entries(self, names: Collection[str]) -> list[str]:
        """Return entries of ``modules_to_save`` that hit these modules and no other."""
        tails: dict[str, list[str]] = {}
        for name in sorted(names, key=natural_key):
            tails.setdefault(_tail(name), []).append(name)
        entries = []
        for tail, group in tails.items():
            hits = {known for known in self._candidates.known if known.endswith(tail)}
            exact = hits <= set(names) and not self._excludes(tail)
            entries += [tail] if exact else group
        return entries

    def _excludes(self, entry: str) -> bool:
        """Say whether an entry would keep LoRA off an adapted module."""
        return any(entry in _runs(name) for name in self._candidates.adapted if entry in name)


def _tail(name: str) -> str:
    """Return what follows the last number in a path, which is the same for every block.

    All of it where it has no number, or ends with one.
    """
    parts = name.split(".")
    after = max((i + 1 for i, part in enumerate(parts) if part.isdigit()), default=0)
    return ".".join(parts[after:]) or name


def _containers(path: str) -> Iterable[str]:
    parts = path.split(".")
    return (".".join(parts[:stop]) for stop in range(1, len(parts)))


def _runs(path: str) -> set[str]:
    """Return every part of a path between dots, of one component or several."""
    parts = path.split(".")
    count = len(parts)
    return {
        ".".join(parts[start:stop])
        for start in range(count)
        for stop in range(start + 1, count + 1)
    }
