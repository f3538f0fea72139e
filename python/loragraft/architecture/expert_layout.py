"""How the experts of a mixture-of-experts block are named, ordered and stored, as data.

The object ``experts`` of a family file, or each of a list of them, is one `ExpertLayout`.
docs/adding-a-family.md explains the keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNT: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


class Projection(StrEnum):
    """What a matrix of an expert does; ``GATE_UP`` is both of its name in one."""

    GATE = "gate"
    UP = "up"
    DOWN = "down"
    GATE_UP = "gate_up"


class Orientation(StrEnum):
    """Which dimension of a stack of matrices comes first; ``EITHER`` leaves it to the shapes."""

    OUT_IN = "out,in"
    IN_OUT = "in,out"
    EITHER = "either"


#: What the tensors of an expert may be, together.
COMPLETE: Final = (
    frozenset({Projection.GATE_UP, Projection.DOWN}),
    frozenset({Projection.GATE, Projection.UP, Projection.DOWN}),
    frozenset({Projection.UP, Projection.DOWN}),
)


@dataclass(frozen=True, slots=True)
class StackedForm:
    """Tensors that hold a matrix of every expert of a block.

    Attributes:
        tensors: End of a tensor's name -> what it holds.
        orientation: ``[experts, out, in]`` or ``[experts, in, out]``.
        interleaved: Rows of gate and up alternate where both are in one tensor.
        flat: The experts lie one below another in a matrix, their hidden units in rows:
            ``[experts * units, width]``, so that ``down`` is ``[in, out]``.
    """

    tensors: Mapping[str, Projection]
    orientation: Orientation = Orientation.OUT_IN
    interleaved: bool = False
    flat: bool = False


@dataclass(frozen=True, slots=True)
class PerExpert:
    """Names of tensors that hold one matrix of one expert: ``MODULE.NUMBER.NAME.weight``.

    Attributes:
        module: End of the path above the experts' numbers.
        names: Each projection and its name, such as ``w1``.
    """

    module: str
    names: tuple[tuple[Projection, str], ...]


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """The experts of a block in memory, and the forms that files hold them in.

    Attributes:
        module: End of the path of the module that has them in memory.
        memory: Its parameters in the order of their registration; names are relative to the
            module. Files may hold them in this form too.
        is_transposed: What the module's attribute of that name says; PEFT goes by it.
        per_expert: How files name single experts; adapters of single experts use the first.
        stacked: Further forms that files hold all experts of a block in.
        count: Keys of config.json, any of which may give the number of experts.
        share: ``(i, n)``: of the experts that a file numbers through, these are part i of n.
        idle: Key of config.json for experts that have a gate but no ``down``, and compute nothing.
        peft_reads_per_expert: PEFT puts adapters of single experts together as it loads them.
        unreachable: Why PEFT cannot load an adapter of these parameters; empty where it can.
    """

    module: str
    memory: StackedForm
    is_transposed: bool = False
    per_expert: tuple[PerExpert, ...] = ()
    stacked: tuple[StackedForm, ...] = ()
    count: tuple[str, ...] = _COUNT
    share: tuple[int, int] = (0, 1)
    idle: str = ""
    peft_reads_per_expert: bool = False
    unreachable: str = ""

    @property
    def gated(self) -> bool:
        """Whether the experts have a gate."""
        return set(self.memory.tensors.values()) != {Projection.UP, Projection.DOWN}

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The matrices of one expert."""
        single = (Projection.GATE, Projection.UP, Projection.DOWN)
        return single if self.gated else single[1:]

    def swapped(self, *, legacy: bool) -> bool:
        """Say whether PEFT's lora_A of these parameters belongs to the outputs.

        PEFT from 0.19.1 on takes the last dimension for the inputs unless ``is_transposed`` says
        otherwise, and PEFT up to 0.18 (``legacy``) always the one before.
        """
        if self.memory.flat:
            return False
        in_out = self.memory.orientation is Orientation.IN_OUT
        return not in_out if legacy else in_out != self.is_transposed


@dataclass(frozen=True, slots=True)
class _Reader:
    """One object of a file, read key by key with errors that say where and which."""

    data: Mapping[str, Any]
    where: str
    seen: set[str] = field(default_factory=set)

    def error(self, key: str, expected: str) -> FormatError:
        got = self.data.get(key)
        return FormatError(f"{self.where}: key {key!r} must be {expected}, got {got!r}")

    def text(self, key: str, default: str | None = None) -> str:
        self.seen.add(key)
        value = self.data.get(key, default)
        if not isinstance(value, str) or not (value or default == ""):
            raise self.error(key, "a non-empty string")
        return value

    def flag(self, key: str) -> bool:
        self.seen.add(key)
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def orientation(self, *, either: bool) -> Orientation:
        self.seen.add("orientation")
        known = [o.value for o in Orientation if either or o is not Orientation.EITHER]
        if self.data.get("orientation", Orientation.OUT_IN) not in known:
            raise self.error("orientation", "one of " + "; ".join(known))
        return Orientation(self.data.get("orientation", Orientation.OUT_IN))

    def tensors(self, key: str) -> dict[str, Projection]:
        self.seen.add(key)
        table = self.data.get(key)
        known = [p.value for p in Projection]
        if not isinstance(table, dict) or not all(
            isinstance(name, str) and name and kind in known for name, kind in table.items()
        ):
            raise self.error(key, f"an object of names with {', '.join(known)}")
        found = {name: Projection(kind) for name, kind in table.items()}
        if frozenset(found.values()) not in COMPLETE or len(set(found.values())) < len(found):
            raise self.error(key, "gate_up and down, or gate, up and down, or up and down, once")
        return found

    def finish(self) -> None:
        unknown = sorted(set(self.data) - self.seen)
        if unknown:
            known = ", ".join(sorted(self.seen))
            raise FormatError(f"{self.where}: unknown key {unknown[0]!r}, expected {known}")


def parse_layouts(data: object, where: str) -> tuple[ExpertLayout, ...]:
    """Check the value of ``experts`` in a family file and return its layouts.

    Args:
        data: One JSON object, a list of them, or None.
        where: The file, for messages.

    Raises:
        FormatError: A key is unknown or missing, or a value has the wrong type or meaning.
    """
    if data is None:
        return ()
    items = data if isinstance(data, list) else [data]
    return tuple(_layout(item, f"{where}: experts[{i}]") for i, item in enumerate(items))


def _layout(data: object, where: str) -> ExpertLayout:
    reader = _reader(data, where)
    module = reader.text("module")
    memory = StackedForm(
        {f"{module}.{name}": kind for name, kind in reader.tensors("parameters").items()},
        reader.orientation(either=False),
        reader.flag("interleaved"),
        reader.flag("flat"),
    )
    layout = ExpertLayout(
        module,
        memory,
        reader.flag("is_transposed"),
        _per_expert(reader),
        _stacked(reader),
        _count(reader),
        _share(reader),
        reader.text("idle", ""),
        reader.flag("peft_reads_per_expert"),
        reader.text("unreachable", ""),
    )
    reader.finish()
    for spec in layout.per_expert:
        if {kind for kind, _ in spec.names} != {*layout.projections}:
            names = ", ".join(layout.projections)
            raise reader.error("per_expert", f"an object with module, {names}, or a list of them")
    return layout


def _reader(data: object, where: str) -> _Reader:
    if not isinstance(data, dict):
        raise FormatError(f"{where}: got {type(data).__name__}, expected a JSON object")
    return _Reader(data, where)


def _per_expert(reader: _Reader) -> tuple[PerExpert, ...]:
    reader.seen.add("per_expert")
    data = reader.data.get("per_expert", [])
    specs: list[PerExpert] = []
    for item in data if isinstance(data, list) else [data]:
        inner = _reader(item, f"{reader.where}: per_expert")
        module = inner.text("module")
        names = tuple((kind, inner.text(kind)) for kind in Projection if kind in inner.data)
        inner.finish()
        specs.append(PerExpert(module, names))
    return tuple(specs)


def _stacked(reader: _Reader) -> tuple[StackedForm, ...]:
    reader.seen.add("stacked")
    data = reader.data.get("stacked", [])
    if not isinstance(data, list):
        raise reader.error("stacked", "a list of objects")
    forms: list[StackedForm] = []
    for i, item in enumerate(data):
        inner = _reader(item, f"{reader.where}: stacked[{i}]")
        tensors = inner.tensors("tensors")
        forms.append(
            StackedForm(tensors, inner.orientation(either=True), inner.flag("interleaved"))
        )
        inner.finish()
    return tuple(forms)


def _count(reader: _Reader) -> tuple[str, ...]:
    reader.seen.add("count")
    keys = reader.data.get("count", list(_COUNT))
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        raise reader.error("count", "a list of keys of config.json")
    return tuple(keys)


def _share(reader: _Reader) -> tuple[int, int]:
    reader.seen.add("share")
    pair = reader.data.get("share", [0, 1])
    if not isinstance(pair, list) or len(pair) != 2 or not all(type(n) is int for n in pair):
        raise reader.error("share", "two integers, the part and how many there are")
    part, parts = pair
    if not 0 <= part < parts:
        raise reader.error("share", "two integers, the part and how many there are")
    return part, parts
