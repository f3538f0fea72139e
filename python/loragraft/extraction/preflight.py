"""What can be known to go wrong before the long work begins."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from loragraft.errors import FormatError
from loragraft.memory import available_memory
from loragraft.native import resolve_threads
from loragraft.resource_limits import check_address_space, check_open_files
from loragraft.wording import size

if TYPE_CHECKING:
    from loragraft.checkpoint import Checkpoint
    from loragraft.extraction.plan import ExtractionPlan

#: Keys of config.json that say nothing of the weights.
_IDLE_KEYS: Final = frozenset(
    {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures"}
)
#: Bytes of interpreter, libraries and buffers that do not depend on the model.
_FIXED_MEMORY: Final = 120_000_000
_WIDTH_UNIT: Final = 16
_GROUPS: Final = 16
#: Bytes that a thread may keep of a matrix, and what it forms at a time where these do not do.
_WORKSPACE: Final = 96 << 20
_CHUNK_ROWS: Final = 252
_WINDOW: Final = 4
#: Largest smaller side for which the core makes a full SVD of its own accord.
_DENSE_SIDE: Final = 1024
_COPIES: Final = 2
#: Sets of factors that a search inside the rounding cells keeps: itself, and its last eight steps.
_POINTS: Final = 24


def needed_memory(plan: ExtractionPlan) -> int:
    """Return an upper estimate of the anonymous memory of a run, in bytes.

    Per thread, the largest of the modules: subspaces, partial sums and small matrices, or the whole
    matrix in double precision where a full SVD is made.
    """
    options = plan.options
    largest = max(
        (_module_memory(*m.linear.shape, m.rank, options.oversampling) for m in plan.modules),
        default=0,
    )
    if options.exact:
        searches = (_search_memory(*m.linear.shape, m.rank) for m in plan.modules)
        largest = max(largest, max(searches, default=0))
    # The factors of all experts of a block are put together in memory, their cuts beside them.
    together = max((m.rank * m.parameters_per_rank for m in plan.modules), default=0)
    return _FIXED_MEMORY + resolve_threads(options.threads) * largest + _COPIES * 4 * together


def _module_memory(rows: int, columns: int, rank: int, oversampling: int) -> int:
    smaller, larger = min(rows, columns), max(rows, columns)
    width = -(-(rank + min(oversampling, smaller)) // _WIDTH_UNIT) * _WIDTH_UNIT
    factors = 4 * 4 * rank * (rows + columns)
    if 4 * width >= 3 * smaller and (smaller <= _DENSE_SIDE or width >= smaller):
        # The matrix, LAPACK's copy, both sets of vectors, and workspace on the smaller side.
        return factors + 8 * (3 * rows * columns + smaller * larger + 8 * smaller * smaller)
    groups = min(_GROUPS, max(1, larger // 1080))
    subspaces = 4 * width * (2 * (rows + columns) + (groups + 1) * larger)
    return factors + subspaces + 8 * 16 * width * width + _bytes_kept(rows, columns)


def _search_memory(rows: int, columns: int, rank: int) -> int:
    """Bytes of a search inside the rounding cells: points, gradients, steps, partial sums."""
    width = -(-rank // _WIDTH_UNIT) * _WIDTH_UNIT
    return 4 * width * (_POINTS * (rows + columns) + (_GROUPS + 2) * columns)


def _bytes_kept(rows: int, columns: int) -> int:
    row = 2 * (columns + 128)
    window = min(rows, _WINDOW * _CHUNK_ROWS) * row
    return max(min(rows * row, _WORKSPACE), window)


def check_memory(plan: ExtractionPlan) -> None:
    """Refuse work that the free memory cannot hold, or that the system does not allow.

    Raises:
        FormatError: It cannot.
    """
    needed, free = needed_memory(plan), available_memory()
    check_open_files(2 * (len(plan.base.shards) + len(plan.tuned.shards)))
    check_address_space(resolve_threads(plan.options.threads), needed - _FIXED_MEMORY)
    if free is not None and needed > free:
        raise FormatError(
            f"not enough memory: about {size(needed)} are needed and {size(free)} are free;"
            " use fewer --threads or a smaller --rank"
        )


def differences(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    """Return a warning for each way in which the two sides' configuration differs."""
    warnings = []
    if base.config is not None and tuned.config is not None:
        keys = sorted(
            key
            for key in _compared(base, tuned) - _IDLE_KEYS
            if base.config.get(key) != tuned.config.get(key)
        )
        if keys:
            shown = ", ".join(f"{key} ({_values(base, tuned, key)})" for key in keys[:3])
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            warnings.append(f"config.json differs in {shown}{more}: the adapter cannot carry that")
    try:
        ours, theirs = base.tokenizer_files(), tuned.tokenizer_files()
    except FormatError as error:
        return [*warnings, f"the tokenizers cannot be compared: {error}"]
    changed = sorted(name for name in {*ours} & {*theirs} if ours[name] != theirs[name])
    if changed:
        warnings.append(
            f"the tokenizers differ ({', '.join(changed)}): use TUNED's with the adapter"
        )
    return warnings


def _compared(base: Checkpoint, tuned: Checkpoint) -> set[str]:
    """Return the keys of config.json that tell something: a GGUF's has but a few."""
    ours, theirs = {*(base.config or {})}, {*(tuned.config or {})}
    return ours | theirs if base.ggml is tuned.ggml is None else ours & theirs


def _values(base: Checkpoint, tuned: Checkpoint, key: str) -> str:
    def short(config: Any) -> str:
        text = json.dumps(config.get(key), default=str)
        return text if len(text) <= 24 else text[:21] + "..."

    return f"{short(base.config)} in BASE, {short(tuned.config)} in TUNED"
