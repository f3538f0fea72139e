"""`verify`: measure, from the files alone, what an adapter reproduces of a tuned checkpoint.

This is the check on the extraction kernels, so it shares nothing with them but the reader of
tensors: NumPy only, and every figure from its definition.

Accuracy. With u = 2⁻²⁴ (float32), v = 2⁻⁵³ (float64), rank r and ‖·‖ the Frobenius norm:

- ΔW = W_tuned − W_base is formed in float64 from exactly widened values: relative error at most
  v per weight, and none unless two exponents are more than 29 apart.
- scaling·B·A is formed in float32, as PEFT and `merge` form it. It differs from the exact product
  by at most (r + 2)·u·|scaling|·|B|·|A| per weight, so in norm by at most
  ε = (r + 2)·u·|scaling|·‖B‖·‖A‖.
- The residual ‖ΔW − scaling·B·A‖ is summed directly in float64, slabs of N ≤ 2²⁰ weights and
  then the slabs with one rounding: relative error at most N·v ≈ 1e-10, in practice below 1e-13.
  It is never taken as a difference of squared norms, which cancels. By the triangle inequality
  the stated relative error is therefore within ε/‖ΔW‖ (and 1e-10 of itself) of the exact one.
  For balanced factors of a truncated SVD |scaling|·‖B‖·‖A‖ ≤ √r·‖ΔW‖, which makes it
  (r + 2)·√r·u: 5e-6 at rank 16.
- The Eckart–Young optimum comes from a float64 Gram matrix. Tail energies below about 1e-14 of
  the total, that is optimal errors below about 1e-7, are noise.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from loragraft.adapter.peft import read_adapter
from loragraft.adapter.placement import place_adapter
from loragraft.alignment import align
from loragraft.architecture.modules import take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.report.model import Report, Summary, count_outcomes
from loragraft.resource_limits import check_open_files
from loragraft.verification.claims import check_claims
from loragraft.verification.measurement import relative_error
from loragraft.verification.tally import total
from loragraft.verification.units import check_adapted, units_of
from loragraft.verification.walk import walk
from loragraft.verification.whole import check_whole
from loragraft.wording import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragraft.adapter.peft import PeftAdapter
    from loragraft.checkpoint import Checkpoint
    from loragraft.report.model import TensorReport
    from loragraft.verification.measurement import Measurement
    from loragraft.verification.walk import Progress


def verify(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    *,
    optimum: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Measure what an adapter reproduces of TUNED, per module, from the files on disk.

    Every tensor of both checkpoints is read and accounted for, in whatever form the two store it.
    Memory is a few slabs of at most 16 MiB and the factors of one module; with ``optimum`` also
    16·min(out, in)² bytes.

    Modules, rows of tokens and biases that the adapter carries as they are in TUNED count as saved
    whole; where they are not, the tensor is left out, and its row and a warning say so.

    A module whose weight is equal on both sides has no ΔW to be relative to: its relative error is
    0 if the adapter leaves the weight alone, else 1 and a warning.

    Args:
        base: The base checkpoint: directory, .safetensors file or Hub id.
        tuned: The tuned checkpoint, likewise.
        adapter: Directory of a PEFT LoRA adapter. If an extraction's ``report.json`` lies in it,
            its figures are checked too: ``extra["claims"]`` has the number of modules checked and
            the worst difference in relative error, and a figure off by more than 1e-4 is a warning.
        optimum: Also compute the exact Eckart–Young optimum and the singular values of each ΔW.
        progress: Called after every tensor or module with its name, the bytes done and those in
            all.

    Returns:
        The report; ``energy`` may be negative where an adapter takes the weights further away.

    Raises:
        FormatError: A file cannot be read.
        MismatchError: The three do not fit each other: shapes differ, or a module of the adapter
            is missing on either side.
        NonFiniteError: NaN or Inf in a factor or in a weight that changed.
    """
    started = time.perf_counter()
    before, after, lora = (
        open_checkpoint(base, gguf=True),
        open_checkpoint(tuned, gguf=True),
        read_adapter(adapter),
    )
    check_open_files(len(before.shards) + len(after.shards))
    placed = place_adapter(lora, before)
    theirs = take_inventory(after, placed.layout, before.config)
    names = [item.linear.name for item in placed.placements if item.linear.address.embedding]
    alignment = align(before, after, placed.inventory, theirs, names)
    check_adapted(alignment, placed.placements, theirs, after)
    units = units_of(before, after, alignment, placed.placements)
    reasons = {**theirs.others, **placed.inventory.others}
    tensors, found = walk(before, after, units, reasons, optimum=optimum, progress=progress)
    whole = check_whole(lora, before, after, tensors)
    modules = tuple(item.module for item in found)
    claims = check_claims(lora.directory / "report.json", modules)
    warnings = (*_warnings(found), *whole.warnings, *(claims.warnings if claims else ()))
    cost = (sum(unit.nbytes for unit in units), time.perf_counter() - started)
    return Report(
        command="verify",
        inputs=_inputs(before, after, lora, optimum),
        summary=_summary(lora, whole.tensors, found, warnings, cost),
        tensors=whole.tensors,
        modules=modules,
        extra={} if claims is None else {"claims": claims.to_json()},
    )


def _inputs(
    base: Checkpoint, tuned: Checkpoint, adapter: PeftAdapter, optimum: bool
) -> dict[str, object]:
    return {
        "base": base.reference,
        "tuned": tuned.reference,
        "adapter": os.fspath(adapter.directory),
        "optimum": optimum,
    }


def _warnings(found: Sequence[Measurement]) -> list[str]:
    warnings = []
    still = [
        item.module.name for item in found if item.tally.delta == 0.0 and item.tally.residual > 0.0
    ]
    if still:
        warnings.append(
            "the adapter changes modules whose weights are equal in BASE and TUNED:"
            f" {len(still)}, such as {still[0]}"
        )
    worse = [item.module.name for item in found if item.tally.residual > item.tally.delta > 0.0]
    if worse:
        warnings.append(
            "the adapter takes modules further from TUNED than BASE is:"
            f" {len(worse)}, such as {worse[0]}"
        )
    return warnings


def _summary(
    adapter: PeftAdapter,
    tensors: tuple[TensorReport, ...],
    found: Sequence[Measurement],
    warnings: tuple[str, ...],
    cost: tuple[int, float],
) -> Summary:
    """Sum up; ``cost`` is bytes compared and seconds."""
    whole = total(item.tally for item in found)
    error = relative_error(whole)
    parameters = sum(item.parameters for item in found)
    exact = whole.exact / parameters if parameters else None
    bits = "" if exact is None else f" {percent(exact)} of their weights come out bit for bit."
    files = {entry.path for module in adapter.modules for entry in (module.lora_A, module.lora_B)}
    return Summary(
        verdict=f"The adapter reproduces {percent(1.0 - error**2)} of the change in {len(found)}"
        f" module{'s' if len(found) > 1 else ''}, with a relative error of {error:.2%}"
        f"{';' if bits else '.'}{bits}",
        counts=count_outcomes(tensors),
        bytes_read=cost[0],
        bytes_written=sum(path.stat().st_size for path in files),
        seconds=cost[1],
        energy=1.0 - error**2,
        error=error,
        bit_exact=exact,
        warnings=warnings,
    )
