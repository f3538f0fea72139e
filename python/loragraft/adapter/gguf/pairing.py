"""Which pairs of a GGUF adapter the modules of a PEFT adapter become."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.adapter.gguf.pair import Pair, Part
from loragraft.adapter.tying import vocabulary_of
from loragraft.architecture.families import family_of
from loragraft.architecture.roles import Role
from loragraft.errors import MismatchError
from loragraft.ggml.family import family_for
from loragraft.ggml.naming import GgmlNames
from loragraft.ggml.row_order import order_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loragraft.adapter.placement import Placed, Placement
    from loragraft.architecture.linear_module import LinearModule
    from loragraft.checkpoint import Checkpoint

_NUMBER: Final = re.compile(r"\.([0-9]+)\.[^.]+$")
#: Kinds of experts' modules -> the matrices in them, by ggml's names.
_EXPERTS: Final = {
    "experts.gate_proj": ("ffn_gate_exps",),
    "experts.up_proj": ("ffn_up_exps",),
    "experts.down_proj": ("ffn_down_exps",),
    "experts.gate_up_proj": ("ffn_gate_exps", "ffn_up_exps"),
}
_FUSED: Final = "ffn_gate_up_exps"


class Pairing(NamedTuple):
    """What an adapter is in a GGUF file.

    Attributes:
        arch: ``general.architecture`` of models that take it.
        pairs: In the order of the model.
        refused: Name of a module -> why llama.cpp cannot take it.
    """

    arch: str
    pairs: tuple[Pair, ...]
    refused: dict[str, str]


def pair_up(placed: Placed, base: Checkpoint, *, fused_experts: bool = False) -> Pairing:
    """Work out the pairs of an adapter for the llama.cpp file of its base.

    Args:
        placed: The adapter on its base.
        base: The base.
        fused_experts: The file has gate and up of experts in one tensor
            (``convert_hf_to_gguf.py --fuse-gate-up-exps``).

    Raises:
        MismatchError: The base's family is not proven, or has no such files.
        FormatError: Its config.json has no numbers of heads.
        MissingDependencyError: The package ``gguf`` is missing.
    """
    family = family_for(base.config)
    if fused_experts and not family.fusable:
        raise MismatchError(
            f"--fused-experts: llama.cpp reads no files of {family.arch} that have gate and up of"
            " experts in one tensor; leave the option out"
        )
    return _Pairer(placed, base, fused_experts).pairing()


class _Pairer:
    def __init__(self, placed: Placed, base: Checkpoint, fused_experts: bool) -> None:
        self._placed = placed
        self._config = base.config
        self._family = family_for(base.config)
        self._names = GgmlNames(self._family, base.config)
        self._tied = vocabulary_of(base).tied
        self._fused = fused_experts
        self._refused: dict[str, str] = {}

    def pairing(self) -> Pairing:
        pairs: dict[str, Pair] = {}
        for pair in self._pairs():
            if pair.name in pairs:
                for placement in pair.modules:
                    self._refuse(placement, f"llama.cpp has two modules in one {pair.name}")
                continue
            pairs[pair.name] = pair
        return Pairing(self._family.arch, tuple(pairs.values()), self._refused)

    def _pairs(self) -> Iterable[Pair]:
        groups: dict[tuple[int | None, str], list[Placement]] = {}
        for placement in self._placed.placements:
            linear = placement.linear
            if linear.kind in _EXPERTS:
                groups.setdefault((linear.layer, linear.kind), []).append(placement)
                continue
            pair = self._single(placement)
            if pair is not None:
                yield pair
        for (layer, kind), found in groups.items():
            yield from self._experts(layer, kind, found)

    def _refuse(self, placement: Placement, why: str) -> None:
        self._refused[placement.module.name] = why

    def _single(self, placement: Placement) -> Pair | None:
        linear = placement.linear
        name = self._names.of(linear.name)
        vocabulary = linear.role in {Role.EMBEDDING, Role.HEAD}
        if vocabulary and self._tied:
            what = "crashes on" if linear.role is Role.EMBEDDING else "has no tensor for"
            self._refuse(placement, f"llama.cpp {what} it where head and embedding are one matrix")
            return None
        if name is None:
            self._refuse(placement, "llama.cpp has no name for it")
            return None
        return Pair(
            name=f"{name}.weight",
            parts=(Part(placement),),
            shape=linear.shape,
            rank=placement.module.rank,
            order=order_of(self._family, linear.name, linear.shape, self._config),
            embedding=linear.address.embedding,
        )

    def _experts(self, layer: int | None, kind: str, found: list[Placement]) -> Iterable[Pair]:
        names = _EXPERTS[kind]
        out, into = found[0].linear.shape
        halves = [slice(None)]
        if len(names) == 2 and self._fused:
            names, halves = (_FUSED,), [slice(None)]
        elif len(names) == 2:
            halves = self._halves(out)
            out //= 2
        for name, rows in zip(names, halves, strict=True):
            parts = self._parts(found, rows)
            yield Pair(
                name=f"blk.{layer}.{name}.weight",
                parts=parts,
                shape=(out, into),
                rank=max(placement.module.rank for placement in found),
                stacked=True,
            )

    def _halves(self, rows: int) -> list[slice]:
        """Return which rows of a gate_up_proj are the gate's, and which are those of up."""
        layouts = family_of(self._config).experts
        if layouts and layouts[0].memory.interleaved:
            return [slice(0, rows, 2), slice(1, rows, 2)]
        return [slice(0, rows // 2), slice(rows // 2, rows)]

    def _parts(self, found: list[Placement], rows: slice) -> tuple[Part | None, ...]:
        first = found[0]
        if first.linear.experts:
            return tuple(Part(first, expert, rows) for expert in range(first.linear.experts))
        numbers = {_expert_number(one.linear): Part(one, 0, rows) for one in found}
        known = (
            _expert_number(linear)
            for linear in self._placed.inventory.linears
            if (linear.layer, linear.kind) == (first.linear.layer, first.linear.kind)
        )
        return tuple(numbers.get(number) for number in range(max(known) + 1))


def _expert_number(linear: LinearModule) -> int:
    match = _NUMBER.search(linear.name)
    return int(match[1]) if match else 0
