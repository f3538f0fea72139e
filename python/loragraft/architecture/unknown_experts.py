"""Stacked experts of a model type that no family file describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loragraft.architecture.expert_checks import configured
from loragraft.architecture.expert_layout import COMPLETE, ExpertLayout, Projection, StackedForm
from loragraft.errors import MismatchError
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loragraft.tensor_entry import TensorEntry
    from loragraft.weights.stored_weight import StoredWeight

_MODULE: Final = "experts"
_WORDS: Final = frozenset({_MODULE, "block_sparse_moe"})
_NAMES: Final = {
    "gate_up_proj": Projection.GATE_UP,
    "gate_proj": Projection.GATE,
    "up_proj": Projection.UP,
    "down_proj": Projection.DOWN,
}
_WIDTHS: Final = ("hidden_size", "n_embd", "d_model")
_UNITS: Final = (
    "moe_intermediate_size",
    "expert_ffn_hidden_size",
    "moe_ffn_hidden_size",
    "ffn_hidden_size",
    "intermediate_size",
)


def proven_layouts(
    tensors: Mapping[str, StoredWeight | TensorEntry], config: Mapping[str, Any] | None
) -> tuple[ExpertLayout, ...]:
    """Return the layout that names and config.json prove for stacked experts.

    They are taken for ``[experts, out, in]``, in memory as on disk, where the names are the common
    ones and the sizes in config.json fit no other reading.

    Raises:
        MismatchError: There are stacked experts, and not all of them are proven.
    """
    ends: dict[str, Projection] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if len(tensor.shape) != 3 or not _WORDS.intersection(parts[:-1]):
            continue
        above, _, end = name.rpartition(f"{_MODULE}.")
        kind = _NAMES.get(end.removesuffix(".weight"))
        if kind is None or not (above == "" or above.endswith(".")):
            raise _unknown(name, "by a name that is not among the common ones", config)
        if not _is_out_in(tensor.shape[1:], kind, config):
            raise _unknown(
                name, f"as {list(tensor.shape)}, and config.json does not prove the order", config
            )
        ends[f"{_MODULE}.{end}"] = kind
    if ends and frozenset(ends.values()) not in COMPLETE:
        raise _unknown(next(iter(ends)), "whose other matrices are not there", config)
    # Models register gate and up first, whatever the order in the files.
    order = list(_NAMES.values())
    ordered = dict(sorted(ends.items(), key=lambda end: order.index(end[1])))
    return (ExpertLayout(_MODULE, StackedForm(ordered)),) if ends else ()


def _is_out_in(shape: tuple[int, ...], kind: Projection, config: Mapping[str, Any] | None) -> bool:
    """Say whether a matrix is ``[out, in]`` and no reading of config.json makes it another."""
    widths, units = configured(config, _WIDTHS), configured(config, _UNITS)
    if kind is Projection.GATE_UP:
        units = {2 * size for size in units}
    rows, columns = (widths, units) if kind is Projection.DOWN else (units, widths)
    first, second = shape
    return first in rows and second in columns and not (first in columns and second in rows)


def _unknown(name: str, how: str, config: Mapping[str, Any] | None) -> MismatchError:
    model_type = None if config is None else config.get("model_type")
    return MismatchError(
        f"tensor {quoted(name)} stacks the experts of a block {how}; model_type"
        f" {quoted(model_type)} is not described: add it to a family file"
        " (docs/adding-a-family.md), or leave the experts out with --exclude experts"
    )
