"""The GGUF file of an extraction, made from the tensors that were just written for PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from loragraft import system_calls
from loragraft.adapter.gguf.file import scale_of, write_gguf
from loragraft.adapter.gguf.pairing import pair_up
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import GGUF_FILE, TENSORS_FILE
from loragraft.adapter.placement import place_adapter
from loragraft.errors import NothingToAdaptError
from loragraft.ggml.family import family_for
from loragraft.ggml.naming import require_gguf
from loragraft.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.checkpoint import Checkpoint
    from loragraft.destination import Destination
    from loragraft.extraction.plan import ExtractionPlan


class GgufReport(NamedTuple):
    """What became of the GGUF file.

    Attributes:
        nbytes: Its size.
        pairs: How many weights it changes.
        alpha: Its one alpha; 0 for none.
        left_out: What llama.cpp has no place for -> why.
    """

    nbytes: int
    pairs: int
    alpha: float
    left_out: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {"file": GGUF_FILE, "bytes": self.nbytes, **self._rest()}

    def _rest(self) -> dict[str, Any]:
        return {"pairs": self.pairs, "alpha": self.alpha, "left_out": dict(self.left_out)}

    def warnings(self) -> list[str]:
        """Say what is in the adapter and not in this file."""
        if not self.left_out:
            return []
        name, why = next(iter(self.left_out.items()))
        more = f" and {counted(len(self.left_out) - 1, 'other')}" if len(self.left_out) > 1 else ""
        return [f"{GGUF_FILE} leaves out {name}{more}: {why}"]


def check_gguf(base: Checkpoint) -> None:
    """Refuse, before the work begins, a base that no GGUF can be written for.

    Raises:
        MismatchError: Its family is not proven.
        MissingDependencyError: The package ``gguf`` is missing.
    """
    family_for(base.config)
    require_gguf("--format gguf")


def write_adapter_gguf(
    plan: ExtractionPlan, destination: Destination, config: Mapping[str, Any]
) -> GgufReport:
    """Write ``adapter.gguf`` beside the tensors, and remove these where it alone is wanted.

    Args:
        plan: What was done.
        destination: Where the tensors lie.
        config: What is to be the adapter's config.

    Raises:
        NothingToAdaptError: llama.cpp has no place for any module.
    """
    tensors = destination.directory / TENSORS_FILE
    adapter = read_adapter(tensors, config)
    pairing = pair_up(place_adapter(adapter, plan.base), plan.base)
    left_out = pairing.refused | dict.fromkeys(
        adapter.other_tensors, "llama.cpp's adapters hold factors alone"
    )
    if not pairing.pairs:
        name, why = next(iter(left_out.items()))
        raise NothingToAdaptError(
            f"--format {plan.options.format}: llama.cpp has no place for any module: {name}: {why}"
        )
    path = destination.file(GGUF_FILE)
    nbytes = write_gguf(path, pairing, name=destination.directory.resolve().name)
    if plan.options.format == "gguf":
        system_calls.remove(tensors)
    return GgufReport(nbytes, len(pairing.pairs), scale_of(pairing.pairs).alpha, left_out)
