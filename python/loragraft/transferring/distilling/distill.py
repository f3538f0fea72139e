"""Distillation in closed form: what the adapter makes its source say, said by the target."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from loragraft.calibration.collection import ModuleRows, collect
from loragraft.errors import MismatchError
from loragraft.subspaces.weight import dense
from loragraft.transferring.distilling.head import Head
from loragraft.transferring.distilling.modules import TRIED, carriers
from loragraft.transferring.distilling.reading import read, states
from loragraft.transferring.distilling.solver import solve
from loragraft.transferring.distilling.tail import Tail, measured_norm
from loragraft.transferring.factors import cast
from loragraft.transferring.options import DTYPES
from loragraft.transferring.report import Fate, TransferredModule
from loragraft.transferring.update import balanced
from loragraft.transferring.verdict import near_no_op
from loragraft.transferring.work import Made

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from loragraft.tensor_reader import TensorReader
    from loragraft.transferring.distilling.modules import Carrier
    from loragraft.transferring.distilling.reading import Reading
    from loragraft.transferring.factors import WrittenFactors
    from loragraft.transferring.plan import TransferPlan

    Array = NDArray[np.float32]

NAME: Final = "distill"
#: A further module is kept where it leaves at most this part of the divergence held out.
_WORTH: Final = 0.97


class Distilled(NamedTuple):
    """What distillation has made.

    Attributes:
        made: The modules, as other methods give them.
        notes: What a reader must know, a sentence each.
    """

    made: tuple[Made, ...]
    notes: tuple[str, ...]


class _Step(NamedTuple):
    """One module's update as it is written, and the divergence held out before and after."""

    carrier: Carrier
    factors: WrittenFactors
    before: float
    after: float
    seconds: float


def distill(
    plan: TransferPlan, reader: TensorReader, progress: Callable[[str, int, int], None] | None
) -> Distilled:
    """Put what an adapter does to its source into the target's last output projections.

    Nothing is trained: no gradient passes through a block. The source reads, or writes, the answers
    to the calibration texts; what its adapter changes there is said in the target's tokens
    (`Shift`), and a convex problem of one projection is solved for it (`solve`), the residual
    stream taken to carry the change to the head as it is. Then the target is run with the update
    as it will be
    written, and a next module takes what is still missing, where that helps on held-out texts.

    Args:
        plan: What is to be done.
        reader: Reads the target.
        progress: Told what was done, steps done and steps in all.

    Raises:
        MismatchError: The models' tokens, or the target's norms, do not allow it.
        NothingToAdaptError: The selection leaves no output projection.
        NonFiniteError: NaN or Inf in what a model computes.
        FormatError: A file cannot be read, or transformers cannot load a model.
        MissingDependencyError: torch, transformers or peft is not installed.
    """
    places = carriers(plan)[:TRIED]
    tell = progress or (lambda *_: None)
    reading = read(plan)
    tell("texts read by both models", 1, len(places) + 1)
    work = _Work(plan, reading)
    steps: list[_Step] = []
    with ExitStack() as stack:
        for number, carrier in enumerate(places):
            step = work.step(carrier)
            tell(carrier.linear.name, number + 2, len(places) + 1)
            if steps and step.after > _WORTH * step.before:
                break
            steps.append(step)
            stack.enter_context(reading.target.changed(carrier.linear.name, _dense(step.factors)))
    rows = [_row(plan, reader, step, len(steps)) for step in steps]
    made = (Made((row,), step.factors) for row, step in zip(rows, steps, strict=True))
    first, last = steps[0], steps[-1]
    note = (
        f"{NAME}: on texts held out the target's divergence from what is wanted falls from"
        f" {first.before:.3f} to {last.after:.3f} nats a token, measured with the adapter as"
        " written"
    )
    return Distilled(tuple(made), (*reading.notes, note))


class _Work:
    """Solves for one module after the other on the same texts."""

    def __init__(self, plan: TransferPlan, reading: Reading) -> None:
        self._plan = plan
        self._reading = reading
        model = reading.target
        self._width = model.unembedding.shape[1]
        self._head = Head(model.unembedding, reading.wanted, model.cap)
        modules = [source.module for source in plan.source.all_parts]
        self._rank = max(module.rank for module in modules)
        self._dtype = DTYPES.get(plan.options.dtype) or modules[0].lora_A.dtype

    def step(self, carrier: Carrier) -> _Step:
        """Solve for a module, and measure the target with it."""
        started = time.perf_counter()
        linear, reading = carrier.linear, self._reading
        inputs, tail = self._seen(carrier)
        found = solve(inputs, tail, self._head, reading.held, self._rank)
        update = balanced(found.update, min(self._rank, *linear.shape)).update
        scale = self._plan.options.scale
        factors = cast(linear, update.times(1.0 if scale is None else scale), 1.0, self._dtype)
        with reading.target.changed(linear.name, _dense(factors)):
            after = states(reading.target, reading.texts, reading.places, self._width)
        divergence, _ = self._head.divergence(after.outputs)
        seconds = time.perf_counter() - started
        return _Step(
            carrier, factors, found.before, float(divergence[reading.held].mean()), seconds
        )

    def _seen(self, carrier: Carrier) -> tuple[Array, Tail]:
        """Return what a module reads, and the way from its output to the head."""
        linear, model = carrier.linear, self._reading.target
        square = (self._width, self._width)
        shapes = {linear.name: linear.shape, model.last_norm: square}
        if carrier.after:
            shapes[carrier.after] = square
        found = collect(model, self._reading.texts, self._reading.places, shapes)
        rows: dict[str, ModuleRows] = {}
        for name, one in found.items():
            if isinstance(one, str):
                raise MismatchError(f"{one}; choose another --method")
            rows[name] = one
        norms = {
            name: measured_norm(*rows[name], name, model.epsilon(name))
            for name in (carrier.after, model.last_norm)
            if name
        }
        tail = Tail(
            rows[linear.name].outputs,
            rows[model.last_norm].inputs,
            norms.get(carrier.after),
            norms[model.last_norm],
        )
        return rows[linear.name].inputs, tail


def _dense(factors: WrittenFactors) -> Array:
    update = factors.update
    return (update.B @ update.A).astype(np.float32)


def _reason(plan: TransferPlan) -> str:
    if plan.options.method == NAME:
        return "as asked for"
    return "auto: less than half of the adapter's squared norm has a weight like its own here"


def _row(plan: TransferPlan, reader: TensorReader, step: _Step, count: int) -> TransferredModule:
    """Return the report's row of a module: it has no source module of its own."""
    linear, factors = step.carrier.linear, step.factors
    delta_norm = factors.update.norm
    weight_norm = float(np.linalg.norm(dense(reader, linear).astype(np.float64)))
    effect = delta_norm / weight_norm if weight_norm > 0.0 else None
    no_op = near_no_op(effect)
    if not no_op and step.after >= step.before:
        no_op = "it brings the target no closer to what is wanted on texts held out"
    return TransferredModule(
        name=linear.name,
        kind=linear.kind,
        layer=linear.layer,
        shape=linear.shape,
        outcome=Fate.TRANSFERRED,
        why=(
            f"{_reason(plan)}; divergence from what is wanted {step.before:.3f} nats a token"
            f" before, {step.after:.3f} after it, on texts held out"
        ),
        source="",
        source_layer=None,
        source_shape=(0, 0),
        share=1.0 / count,
        divided_by=1,
        method=NAME,
        rank=factors.rank,
        alpha=factors.alpha,
        dtype=factors.dtype,
        delta_norm=delta_norm,
        weight_norm=weight_norm,
        effect=effect,
        near_no_op=no_op,
        seconds=step.seconds,
        source_rank=max(source.module.rank for source in plan.source.all_parts),
    )
