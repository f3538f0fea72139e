"""The figures that an adapter's own report claims, against the ones measured here."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from loragraft.report.model import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from loragraft.report.model import ModuleReport

#: A claim further off than this is told. Figures are shares of 1; norms are compared relatively.
TOLERANCE: Final = 1e-4
_MAX_BYTES: Final = 1 << 30
_SHARES: Final = ("relative_error", "energy", "bit_exact")
_NORMS: Final = ("delta_norm", "weight_norm")


@dataclass(frozen=True, slots=True)
class ClaimCheck:
    """The outcome of a comparison.

    Attributes:
        checked: Modules whose figures were compared.
        worst_difference: Largest absolute difference in relative_error.
        module: Where it is; empty when nothing was compared.
        warnings: One line for each kind of disagreement.
    """

    checked: int
    worst_difference: float
    module: str
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `Report.extra` carries under ``claims``."""
        return {
            "checked": self.checked,
            "worst_difference": self.worst_difference,
            "module": self.module,
        }


def check_claims(path: Path, measured: Sequence[ModuleReport]) -> ClaimCheck | None:
    """Compare the ``report.json`` of an extraction with measured figures.

    Args:
        path: Where the report would be.
        measured: Modules as `verify` found them.

    Returns:
        None where there is no report of an extraction. A report that cannot be read is a
        warning, for nothing of the verification depends on it.
    """
    if not path.is_file():
        return None
    try:
        claims = _read_claims(path)
    except (OSError, ValueError, RecursionError) as error:
        return ClaimCheck(0, 0.0, "", (f"{path.name} cannot be read and was not checked: {error}",))
    if claims is None:
        return None
    known = {module.name: module for module in measured}
    common = [name for name in claims if name in known]
    worst, where, warnings = 0.0, "", []
    for figure in (*_SHARES, *_NORMS, "optimal_error"):
        differences = [
            (difference, name)
            for name in common
            for difference in _differences(claims[name], known[name], figure)
        ]
        difference, name = max(differences, default=(0.0, ""))
        if figure == "relative_error":
            worst, where = difference, name
        if difference > TOLERANCE:
            warnings.append(_disagreement(figure, name, claims[name], known[name], differences))
    warnings += _strangers(claims, known)
    return ClaimCheck(len(common), worst, where, tuple(warnings))


def _read_claims(path: Path) -> dict[str, Mapping[str, Any]] | None:
    """Claimed modules by name; None for a report of another command."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    report = json.loads(path.read_bytes())
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    if report.get("command") != "extract":
        return None
    modules = report.get("modules")
    if not isinstance(modules, list) or not all(_is_module(module) for module in modules):
        raise ValueError("its list of modules is malformed")
    return {module["name"]: module for module in modules}


def _is_module(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _differences(claim: Mapping[str, Any], module: ModuleReport, figure: str) -> Iterator[float]:
    """Yield how far a claimed figure is off, if both sides state it; NaN counts as infinite."""
    claimed, found = claim.get(figure), getattr(module, figure)
    if claimed is None or found is None:
        return
    if isinstance(claimed, bool) or not isinstance(claimed, (int, float)):
        yield math.inf
        return
    try:
        difference = found - float(claimed)
    except OverflowError:
        difference = math.inf
    if figure in _NORMS:
        difference /= max(found, 1e-300)
    if math.isnan(difference):
        yield math.inf
    elif figure == "optimal_error":
        # The factorisation's own estimate may lie above the optimum, never below it.
        yield max(difference, 0.0)
    else:
        yield abs(difference)


def _disagreement(
    figure: str,
    name: str,
    claim: Mapping[str, Any],
    module: ModuleReport,
    differences: Sequence[tuple[float, str]],
) -> str:
    count = sum(difference > TOLERANCE for difference, _ in differences)
    claimed, found = claim[figure], getattr(module, figure)
    return (
        f"report.json claims a {figure} that the files do not bear out in {count} of"
        f" {len(differences)} modules, worst {name}: claimed {claimed!r:.40}, measured {found:.6g}"
    )


def _strangers(claims: Mapping[str, Any], known: Mapping[str, ModuleReport]) -> list[str]:
    warnings = []
    for verb, names in (
        ("lists modules that the adapter lacks", claims.keys() - known.keys()),
        ("does not list modules that the adapter has", known.keys() - claims.keys()),
    ):
        if names:
            warnings.append(f"report.json {verb}: {len(names)}, such as {min(names)}")
    return warnings
