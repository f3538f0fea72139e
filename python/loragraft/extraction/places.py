"""Where in a model something happened, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from loragraft.architecture.roles import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WORDS: Final = {
    Role.ATTENTION: "attention",
    Role.MLP: "MLP",
    Role.EXPERTS: "experts",
    Role.ROUTER: "routers",
    Role.HEAD: "head",
}
#: More kinds than this are counted instead.
_MOST_NAMES: Final = 5


class Placed(Protocol):
    """A module, as far as its place goes."""

    @property
    def kind(self) -> str:
        """Such as ``q_proj``."""

    @property
    def role(self) -> Role:
        """What it does in a block."""

    @property
    def layer(self) -> int | None:
        """Block number, None outside the blocks."""


def places(some: Sequence[Placed], everything: Sequence[Placed]) -> str:
    """Say where some of a model's modules are, such as ``attention and MLP in layers 4-11``.

    A role stands for its kinds of modules where all of them are among the some.
    """
    kinds = _kinds(some)
    names: list[str] = []
    by_role = _by_role(everything)
    for role in Role:
        all_kinds = by_role.get(role, [])
        present = [kind for kind in all_kinds if kind in kinds]
        word = _WORDS.get(role)
        names += [word] if word and present and present == all_kinds else present
    if len(names) > _MOST_NAMES:
        names = [f"{len(names)} kinds of modules"]
    layers = _layers(some)
    all_layers = _layers(module for module in everything if module.kind in kinds)
    return listed(names) + ("" if layers == all_layers else f" in {spans(layers)}")


def listed(words: Sequence[str]) -> str:
    """Join words by commas and a last *and*."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def spans(numbers: Sequence[int]) -> str:
    """Return increasing layer numbers as ranges, such as ``layers 0-3 and 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] + 1 == number:
            runs[-1].append(number)
        else:
            runs.append([number])
    if len(runs) > _MOST_NAMES:
        return f"{len(numbers)} layers"
    parts = [f"{run[0]}-{run[-1]}" if run[1:] else str(run[0]) for run in runs]
    return f"{'layers' if len(numbers) > 1 else 'layer'} {listed(parts)}"


def _kinds(modules: Iterable[Placed]) -> set[str]:
    return {module.kind for module in modules}


def _layers(modules: Iterable[Placed]) -> list[int]:
    return sorted({module.layer for module in modules if module.layer is not None})


def _by_role(modules: Iterable[Placed]) -> dict[Role, list[str]]:
    """Return the kinds of modules of every role, in the order in which they first appear."""
    roles: dict[Role, dict[str, None]] = {}
    for module in modules:
        roles.setdefault(module.role, {})[module.kind] = None
    return {role: list(kinds) for role, kinds in roles.items()}
