"""Which modules an adapter could carry whole: all that are no linear layer, with all their tensors.

PEFT's ``modules_to_save`` replaces a module by the one in the file, which must hold every tensor
of it. A parameter of a module that also holds linear layers cannot be carried that way, nor any
other, except a bias: ``bias`` makes PEFT load those over the base model's.

Tensors of the two checkpoints belong together where they have the same name in memory.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.adapter.tensor_names import containers_of, head_name, owner_of, tensor_names
from loragraft.adapter.tying import is_token_embedding, vocabulary_of
from loragraft.architecture.families import family_of
from loragraft.architecture.roles import Role
from loragraft.architecture.unloaded import why_unloaded
from loragraft.number_formats import WEIGHT_DTYPES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from loragraft.architecture.modules import Inventory, LinearModule
    from loragraft.checkpoint import Checkpoint, TensorEntry

#: Numbers of modules that are no weights, such as masks and counters, are copied as they are.
_PLAIN_DTYPES: Final = (*WEIGHT_DTYPES, "F64", "I64", "I32", "I16", "BOOL")
_EXPERTS: Final = "experts"
_NO_EXPERTS: Final = "experts are not saved whole"
_UNCLEAR: Final = "it may share its weight with others, which no file tells"


class WholeKind(StrEnum):
    """What a module is, as far as ``--save-whole`` distinguishes."""

    NORM = "norm"
    EMBEDDING = "embedding"
    HEAD = "head"
    ROUTER = "router"
    OTHER = "other"


class Part(NamedTuple):
    """A tensor of a module, which both sides have.

    Attributes:
        key: Its name in the module, such as ``weight``; of a bias, after ``base_model.model.``.
        base: The base side.
        tuned: The tuned side.
    """

    key: str
    base: TensorEntry
    tuned: TensorEntry

    @property
    def own(self) -> bool:
        """Whether it belongs to the module itself, not to a module in it."""
        return "." not in self.key

    @property
    def tensors(self) -> tuple[str, ...]:
        """Its names in the checkpoints; one where both have the same."""
        return tuple(dict.fromkeys((self.base.name, self.tuned.name)))


class Refusal(NamedTuple):
    """A tensor whose change no adapter can carry.

    Attributes:
        base: The base side, None where it lacks the tensor.
        tuned: The tuned side, None where it lacks the tensor.
        why: Why not.
    """

    base: TensorEntry | None
    tuned: TensorEntry | None
    why: str

    @property
    def tensors(self) -> tuple[str, ...]:
        """Its names in the checkpoints; one where both have the same."""
        both = (self.base, self.tuned)
        return tuple(dict.fromkeys(entry.name for entry in both if entry is not None))


class WholeModule(NamedTuple):
    """A module that can be carried whole.

    Attributes:
        name: Its path in memory.
        kind: What it is.
        parts: All its tensors.
        tokens: It has a row for every token.
    """

    name: str
    kind: WholeKind
    parts: tuple[Part, ...]
    tokens: bool = False


class Candidates(NamedTuple):
    """What two checkpoints have besides the weights that LoRA factors change.

    Attributes:
        modules: Modules that can be carried whole.
        biases: Biases of linear layers, and of modules that hold linear layers.
        refused: Other tensors.
        known: Paths in memory of every module that has tensors, or contains one that has.
        adapted: Paths of the modules that have LoRA factors.
        tied: Paths of embedding and head where they are one matrix on both sides, else empty.
        retied: They are one matrix on one side only.
    """

    modules: tuple[WholeModule, ...]
    biases: tuple[Part, ...]
    refused: tuple[Refusal, ...]
    known: frozenset[str]
    adapted: frozenset[str]
    tied: tuple[str, ...] = ()
    retied: bool = False


def find_candidates(
    base: Checkpoint, tuned: Checkpoint, inventory: Inventory, adapted: Sequence[LinearModule]
) -> Candidates:
    """Sort everything that is not adapted into modules, biases, and what cannot be carried.

    Args:
        base: The base checkpoint.
        tuned: The tuned one.
        inventory: What ``base`` consists of.
        adapted: The modules of ``inventory`` that get LoRA factors.

    Raises:
        FormatError: Two tensors of a checkpoint belong to the same module.
    """
    return _Sorting(base, tuned, inventory, adapted).candidates()


class _Pair(NamedTuple):
    """What both sides have under one name in memory."""

    base: TensorEntry | None
    tuned: TensorEntry | None


class _Sorting:
    """One run of `find_candidates`; all names are those in memory."""

    def __init__(
        self,
        base: Checkpoint,
        tuned: Checkpoint,
        inventory: Inventory,
        adapted: Sequence[LinearModule],
    ) -> None:
        self._sides = vocabulary_of(base), vocabulary_of(tuned)
        names = tensor_names(base, base)
        ours = {names[name]: entry for name, entry in base.tensors.items()}
        alike = base.tensors.keys() == tuned.tensors.keys()
        their_names = names if alike else tensor_names(tuned, base)
        theirs = {name: tuned.tensors[raw] for raw, name in their_names.items()}
        self._head = head_name(self._sides, (names, their_names))
        self._pairs = {name: _Pair(ours.get(name), theirs.get(name)) for name in {**ours, **theirs}}
        self._raw_names = names
        self._reasons = {names[raw]: why for raw, why in inventory.others.items()}
        family = family_of(base.config)
        self._unloaded = {
            names[raw]: why
            for raw in inventory.others
            if (why := why_unloaded(raw, family, base.config))
        }
        self._adapted = adapted
        changing = {names[tensor] for module in adapted for tensor in module.tensors}
        self._matrices = {names[t] for module in inventory.linears for t in module.tensors}
        # Heads and routers without factors are modules like others; the rest of the linear layers
        # was left out by choice.
        self._movable = {
            owner_of(names[module.tensor]): module.role
            for module in inventory.linears
            if module.role in {Role.HEAD, Role.ROUTER}
            and not module.experts
            and names[module.tensor] not in changing
        }
        self._linears = {owner_of(name) for name in self._matrices}.difference(self._movable)
        self._containers = {c for path in self._linears for c in containers_of(path)}
        self._refused: dict[_Pair, str] = {}
        self._biases: list[Part] = []

    def candidates(self) -> Candidates:
        owners = self._owners()
        parts = self._parts(owners)
        modules = [module for path in owners if (module := self._module(path, parts[path]))]
        modules, tied, retied = self._with_head(modules)
        return Candidates(
            modules=tuple(modules),
            biases=tuple(self._biases),
            refused=tuple(Refusal(*pair, why) for pair, why in self._refused.items()),
            known=frozenset(
                path
                for name in self._pairs.keys() - self._unloaded.keys()
                for path in containers_of(name)
            ),
            adapted=frozenset(module.address.module or module.name for module in self._adapted),
            tied=tied,
            retied=retied,
        )

    def _owners(self) -> dict[str, None]:
        """Return the modules that hold a tensor of their own; sort out biases and refusals."""
        owners: dict[str, None] = {}
        for name, pair in self._pairs.items():
            path, _, last = name.rpartition(".")
            if name in self._matrices and path not in self._movable:
                continue
            why = self._unloaded.get(name) or self._why_not(path, last, pair)
            if why:
                self._refuse([pair], why)
            elif path not in self._linears and path not in self._containers:
                owners[path] = None
            elif pair.base is not None and pair.tuned is not None:
                self._biases.append(Part(f"{self._inner(path)}.{last}", pair.base, pair.tuned))
        return owners

    def _why_not(self, path: str, last: str, pair: _Pair) -> str:
        """Return why the change of a tensor cannot be carried, empty where it perhaps can."""
        if not path:
            return "a parameter of the model itself, which PEFT cannot replace"
        if _EXPERTS in path.split("."):
            return _NO_EXPERTS
        if path not in self._linears and path not in self._containers:
            return ""
        if last == "bias":
            return _why_not_copied(pair) or _why_not_same(pair)
        if path in self._linears:
            return f"{last} of a linear layer, which PEFT cannot replace"
        return f"a parameter of {path}, which holds linear layers: PEFT replaces whole modules"

    def _inner(self, path: str) -> str:
        """Return the path of a linear layer inside of PEFT's wrappers."""
        wrappers = sum(1 for module in self._adapted if module.address.module == path)
        return path + ".base_layer" * wrappers

    def _parts(self, owners: Collection[str]) -> dict[str, list[tuple[str, _Pair]]]:
        """Return all tensors in each module, those of modules in it included."""
        parts: dict[str, list[tuple[str, _Pair]]] = {path: [] for path in owners}
        for name, pair in self._pairs.items():
            for path in () if name in self._unloaded else containers_of(name):
                if path in parts:
                    parts[path].append((name[len(path) + 1 :], pair))
        return parts

    def _module(self, path: str, parts: Sequence[tuple[str, _Pair]]) -> WholeModule | None:
        """Return a module with its tensors; note why where that is not possible."""
        kind = self._kind(path, [key for key, _ in parts if "." not in key])
        vocabulary = kind in {WholeKind.EMBEDDING, WholeKind.HEAD}
        found = []
        for key, pair in parts:
            why = _why_not_copied(pair) or ("" if vocabulary else _why_not_same(pair))
            if _EXPERTS in key.split("."):
                why = _NO_EXPERTS
            if why:
                own = "" if len(parts) == 1 else f"{key} of its module is "
                self._refuse([pair for _, pair in parts], own + why)
                return None
            assert pair.base is not None
            assert pair.tuned is not None
            found.append(Part(key, pair.base, pair.tuned))
        tokens = is_token_embedding(path) or kind is WholeKind.HEAD
        if vocabulary and tokens and self._sides[0].unclear:
            self._refuse([pair for _, pair in parts], _UNCLEAR)
            return None
        return WholeModule(path, kind, tuple(found), vocabulary and tokens)

    def _refuse(self, pairs: Iterable[_Pair], why: str) -> None:
        for pair in pairs:
            self._refused.setdefault(pair, why)

    def _kind(self, path: str, keys: Iterable[str]) -> WholeKind:
        role = self._movable.get(path)
        if role is not None:
            return WholeKind.HEAD if role is Role.HEAD else WholeKind.ROUTER
        reasons = {self._reasons.get(f"{path}.{key}", "") for key in keys}
        for kind in (WholeKind.NORM, WholeKind.EMBEDDING):
            if kind.value in reasons:
                return kind
        return WholeKind.OTHER

    def _with_head(
        self, modules: list[WholeModule]
    ) -> tuple[list[WholeModule], tuple[str, ...], bool]:
        """Settle what head and embedding have to do with each other.

        Returns:
            The modules, the paths of embedding and head where both sides tie them, and whether
            one side alone does.
        """
        base, tuned = self._sides
        if not (base.tied or tuned.tied) or base.embedding is None:
            return modules, (), False
        head = self._head
        rest = [module for module in modules if module.name != head]
        if base.tied and tuned.tied:
            # Loaders ignore what the file holds under the head's name.
            embedding = owner_of(self._raw_names[base.embedding.entry.name])
            return rest, (embedding, head), False
        if base.head is None or tuned.head is None:
            return modules, (), False
        self._refused.pop(self._pairs[f"{head}.weight"], None)
        part = Part("weight", base.head.entry, tuned.head.entry)
        return [*rest, WholeModule(head, WholeKind.HEAD, (part,), tokens=True)], (), True


def _why_not_copied(pair: _Pair) -> str:
    if pair.tuned is None:
        return "only in BASE"
    if pair.base is None:
        return "only in TUNED"
    if pair.tuned.dtype not in _PLAIN_DTYPES:
        return f"stored as {pair.tuned.dtype}"
    return ""


def _why_not_same(pair: _Pair) -> str:
    if pair.base is None or pair.tuned is None or pair.base.shape == pair.tuned.shape:
        return ""
    return f"of shape {list(pair.base.shape)} in BASE and {list(pair.tuned.shape)} in TUNED"
