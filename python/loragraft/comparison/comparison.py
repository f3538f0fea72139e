"""Two models side by side: how far their weights moved, and how alike their subspaces are."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from loragraft.architecture.modules import take_inventory
from loragraft.architecture.parts import lie_alike, split, whole
from loragraft.architecture.roles import Role
from loragraft.atomic_file import write_text_atomic
from loragraft.checkpoint import open_checkpoint
from loragraft.comparison.drawing import draw
from loragraft.comparison.kinship import kinship_of
from loragraft.comparison.layers import identity, proportional
from loragraft.comparison.places import Place, depth_of, main_stack, place_of
from loragraft.comparison.report import ComparedModule, ComparisonReport
from loragraft.comparison.summary import summarise
from loragraft.destination import Destination, check_destination
from loragraft.documents import write_report
from loragraft.errors import MismatchError
from loragraft.resource_limits import check_open_files
from loragraft.subspaces.cache import SubspaceCache, cache_directory
from loragraft.subspaces.finder import SubspaceFinder
from loragraft.subspaces.rank import parse_subspace_rank
from loragraft.tensor_reader import TensorReader
from loragraft.wording import shown

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from loragraft.architecture import LinearModule
    from loragraft.architecture.parts import Part
    from loragraft.checkpoint import Checkpoint

    #: Told what was done last, bytes done and bytes in all.
    Progress = Callable[[str, int, int], None]

PICTURE_FILE: Final = "compare.svg"
_NO_SUBSPACE: Final = frozenset({Role.EXPERTS, Role.EMBEDDING, Role.HEAD, Role.ROUTER})


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished comparison.

    Attributes:
        report: What was found, per module.
        output: The directory of the report, None where none was written.
    """

    report: ComparisonReport
    output: Path | None = None


class _Matched(NamedTuple):
    first: Part
    second: Part


def compare(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    subspace_rank: int | str = 128,
    seed: int = 0,
    threads: int | None = None,
    cache: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two models module by module: weight change, and subspace overlap above chance.

    Modules are paired by their path within the block, blocks by number, or at the same relative
    depth where one model is deeper; part by part where one stores as several what the other has
    fused. Experts, routers, embeddings and heads are left out.

    Args:
        a: A checkpoint: a directory, one .safetensors file, or a Hub id.
        b: Another.
        output: Directory for ``report.json``, ``report.html`` and ``compare.svg``; None writes
            nothing.
        subspace_rank: Dimension of the singular subspaces, or ``energy=0.9``.
        seed: Of the sketches.
        threads: None for one per core.
        cache: Keep subspaces for the next run.
        force: Write into a directory that holds something.
        progress: Called with (what, bytes done, bytes in all) after every module.

    Raises:
        FormatError: A file cannot be read or written, or is malformed.
        MismatchError: The two have no module in common.
        NonFiniteError: NaN or Inf among the weights.
        UsageError: An option that cannot be used, or an ``output`` that holds something.
    """
    started = time.perf_counter()
    rank = parse_subspace_rank(subspace_rank)
    first, second = open_checkpoint(a), open_checkpoint(b)
    check_open_files(2 * (len(first.shards) + len(second.shards)))
    where = None if output is None else Path(output)
    if where is not None:
        check_destination(where, [first.directory, second.directory], force=force)
    matched, unpaired = _matched(_compared(first), _compared(second))
    if not matched:
        raise _nothing_in_common(first, second)
    store = SubspaceCache(cache_directory() if cache else None)
    with ExitStack() as stack:
        # Before the work: a directory that cannot be written to is known at once.
        destination = None if where is None else stack.enter_context(Destination(where, force))
        reader = stack.enter_context(TensorReader())
        finder = stack.enter_context(
            SubspaceFinder(reader, store, rank, seed=seed, threads=threads)
        )
        finder.expect(part.linear for pair in matched for part in pair)
        rows = _rows(finder, reader, matched, progress)
        store.trim()
        inputs = {
            "a": first.reference,
            "b": second.reference,
            "subspace_rank": str(rank),
            "seed": seed,
        }
        summary = summarise(rows, unpaired, store.failure, time.perf_counter() - started)
        report = ComparisonReport(inputs, summary, rows)
        if destination is not None:
            write_text_atomic(destination.file(PICTURE_FILE), draw(report))
            write_report(destination, report.to_json())
    return Comparison(report, where)


def _rows(
    finder: SubspaceFinder,
    reader: TensorReader,
    matched: list[_Matched],
    progress: Progress | None,
) -> tuple[ComparedModule, ...]:
    total = sum(4 * math.prod(one.linear.shape) for pair in matched for one in pair)
    done, rows = 0, []
    for first, second in matched:
        rows.append(_row(finder, reader, first, second))
        done += 4 * (math.prod(first.linear.shape) + math.prod(second.linear.shape))
        if progress is not None:
            progress(first.linear.name, done, total)
    return tuple(rows)


def _row(finder: SubspaceFinder, reader: TensorReader, first: Part, second: Part) -> ComparedModule:
    kinship = kinship_of(finder, reader, first.linear, second.linear)
    return ComparedModule(
        name=first.whole.name,
        other=second.whole.name,
        kind=first.linear.kind,
        layer=first.whole.layer,
        shape=first.linear.shape,
        other_shape=second.linear.shape,
        subspace_rank=kinship.first.rank,
        left=kinship.left,
        right=kinship.right,
        excess=kinship.excess,
        weight_change=kinship.likeness.change,
        weight_cosine=kinship.likeness.cosine,
        weight_norm=kinship.first.norm,
        other_norm=kinship.second.norm,
        part=first.title,
        other_part=second.title,
    )


def _compared(checkpoint: Checkpoint) -> list[tuple[Part, ...]]:
    """Return the layers that are compared, the parts of each together."""
    linears = [one for one in take_inventory(checkpoint).linears if _is_compared(one)]
    return [split([linear], checkpoint.config) for linear in linears]


def _matched(
    ours: Sequence[Sequence[Part]], theirs: Sequence[Sequence[Part]]
) -> tuple[list[_Matched], int]:
    """Return the pairs in A's order, and how many modules of A have no counterpart."""
    own, others = ([parts[0].whole for parts in side] for side in (ours, theirs))
    stack = main_stack(own)
    other_stack = main_stack(others, stack)
    depths = depth_of(own, stack), depth_of(others, other_stack)
    rule = identity if depths[0] == depths[1] else proportional
    layers = rule(depths[1], depths[0])
    layers_of = {place_of(parts[0].whole): parts for parts in theirs}
    parts_of = {place_of(part.linear): part for parts in theirs for part in parts}

    def counterpart(linear: LinearModule) -> Place:
        place = place_of(linear)
        if place.stack == stack and place.layer >= 0:
            return Place(other_stack, layers[place.layer], place.tail)
        return place

    found: list[_Matched] = []
    unpaired = 0
    for parts in ours:
        before = len(found)
        same = layers_of.get(counterpart(parts[0].whole))
        if same is not None and lie_alike(parts, same):
            found.append(_Matched(whole(parts[0].whole), whole(same[0].whole)))
            continue
        for part in parts:
            other = parts_of.get(counterpart(part.linear))
            if other is not None:
                found.append(_Matched(part, other))
        unpaired += len(found) == before
    return found, unpaired


def _is_compared(linear: LinearModule) -> bool:
    return not linear.experts and linear.role not in _NO_SUBSPACE


def _nothing_in_common(first: Checkpoint, second: Checkpoint) -> MismatchError:
    return MismatchError(
        f"{shown(first.reference)} and {shown(second.reference)} have no linear layer of one name"
        " in common; give two models whose blocks have the same kinds of layers"
    )
