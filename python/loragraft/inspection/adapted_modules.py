"""What the modules of an adapter have in common, whatever file they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loragraft.report.inspection import KindCount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loragraft.report.inspection import AdaptedModule


def kind_counts(
    modules: Sequence[AdaptedModule], parameters: Mapping[str, int]
) -> tuple[KindCount, ...]:
    """Return the modules counted by kind.

    Args:
        modules: Of an adapter.
        parameters: Numbers in the factors, by the module's name.
    """
    groups: dict[str, list[AdaptedModule]] = {}
    for module in modules:
        groups.setdefault(module.kind, []).append(module)
    return tuple(
        KindCount(
            kind=kind,
            role="",
            modules=len(group),
            shapes=tuple(sorted({module.shape for module in group})),
            parameters=sum(parameters[module.name] for module in group),
            experts=max(module.experts for module in group),
        )
        for kind, group in groups.items()
    )


def odd_norms(modules: Sequence[AdaptedModule]) -> Iterator[str]:
    """Yield sentences on modules that are broken, or change nothing."""
    broken = [module.name for module in modules if module.norm is None]
    if broken:
        yield f"Modules with NaN or Inf: {len(broken)}, such as {broken[0]}."
    idle = [module.name for module in modules if module.norm == 0.0]
    if idle:
        yield f"Modules that change nothing (B·A is 0): {len(idle)}, such as {idle[0]}."
