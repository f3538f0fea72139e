"""Which parameter of its module a pair of factors in PEFT's file belongs to.

PEFT names the tensors of a parameter after the module that holds it. Where several parameters of
a module are adapted it wraps one around the other, and ``base_layer`` in a name leads one wrapper
further in; the first parameter of the module is the innermost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.adapter.automaton import Automaton, Budget
from loragraft.architecture.address import Address
from loragraft.errors import FormatError
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

#: The order in which the classes of transformers 4.55 to 5.23 make the parameters of their experts.
_ORDER: Final = ("gate_up_proj", "gate_proj", "up_proj", "w1", "v1", "w2", "down_proj")

#: Of a name, as in the headers of files.
_LONGEST: Final = 1000
_SHOWN: Final = 5


class ParameterNames:
    """The entries of ``target_parameters``, each a full name or the end of one."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        """Take them from a config.

        Raises:
            FormatError: They are no list of names.
        """
        entries = config.get("target_parameters") or []
        if not isinstance(entries, list) or not all(map(_is_name, entries)):
            raise FormatError(
                f"{where}: target_parameters is {quoted(entries)}, expected a list of names"
            )
        self._where = where
        self._layers = config.get("target_modules")
        self._pattern: Automaton | None = None
        if isinstance(self._layers, str) and entries:
            try:
                self._pattern = Automaton(rf"(?:{self._layers})$", Budget())
            except ValueError as error:
                raise FormatError(
                    f"{where}: target_modules is {quoted(self._layers)} beside target_parameters,"
                    f" expected names or a regular expression that can be matched: {error}"
                ) from None
        self._by_holder: dict[str, set[str]] = {}
        for entry in entries:
            holder, _, parameter = entry.rpartition(".")
            self._by_holder.setdefault(holder, set()).add(parameter)

    def of_module(self, module: str, depths: Sequence[int]) -> Iterator[tuple[int, Address]]:
        """Yield each depth at which the file has factors, and what they belong to there.

        Args:
            module: Path of the module.
            depths: How often ``base_layer`` occurs in the names of its factors.

        Raises:
            FormatError: There are not as many parameters as factors, their order is not known, or
                target_modules is no regular expression that can be tried.
        """
        found = self._found(module)
        if not found and list(depths) == [0]:
            yield 0, Address(module)
            return
        if sorted(depths) != list(range(len(found))):
            raise FormatError(
                f"{self._where}: target_parameters gives module {module}"
                f" {_few(found) or 'no parameter'}, but the tensor file has"
                f" {len(depths)} pair{'' if len(depths) == 1 else 's'} of factors for it; expected"
                " one for each parameter"
            )
        unknown = sorted(found.difference(_ORDER))
        if len(found) > 1 and unknown:
            raise FormatError(
                f"{self._where}: target_parameters gives module {module}"
                f" {_few(found)}; which factors are whose depends on their order in"
                f" the model, and that of {unknown[0]} is not known: merge the adapter with PEFT"
                " instead"
            )
        ordered = sorted(found, key=_ORDER.index) if len(found) > 1 else sorted(found)
        for order, parameter in enumerate(ordered):
            yield len(ordered) - 1 - order, Address(module, parameter, order)

    def _found(self, module: str) -> set[str]:
        """Return the parameters of a module that are named.

        An entry without a module, such as ``down_proj``, fits any; the layers that
        ``target_modules`` names are not meant.
        """
        ends = [module[i + 1 :] for i, char in enumerate(module) if char == "."]
        found = {p for end in (module, *ends) for p in self._by_holder.get(end, ())}
        anywhere = self._by_holder.get("", set())
        if not found and anywhere and self._is_layer(module, ends):
            return set()
        return found | anywhere

    def _is_layer(self, module: str, ends: Sequence[str]) -> bool:
        if self._pattern is not None:
            return self._pattern.matches(module)
        return isinstance(self._layers, list) and any(
            name in self._layers for name in (module, *ends)
        )


def _is_name(entry: Any) -> bool:
    """Whether it may become part of a module's name, which is shown."""
    return isinstance(entry, str) and entry.isprintable() and len(entry) <= _LONGEST


def _few(names: Collection[str]) -> str:
    """Return names for a message, not more than it can take."""
    return ", ".join(sorted(names)[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
