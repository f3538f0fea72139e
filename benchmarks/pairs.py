"""Pairs of bf16 checkpoints with a known kind of change, made once and kept."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loragraft.dtypes import bf16_from_float32, float32_from_bf16
from loragraft.safetensors_writer import SafetensorsWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from numpy.typing import NDArray

    Bits = NDArray[np.uint16]

#: Root mean squares: of the weights, of the low-rank change, of the full-rank change.
WEIGHT_RMS: Final = 0.02
CHANGE_RMS: Final = 0.05 * WEIGHT_RMS
NOISE_RMS: Final = 0.01 * WEIGHT_RMS
CHANGE_RANK: Final = 32
_FILE: Final = "model.safetensors"
_SIDES: Final = ("base", "tuned")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two checkpoints of one architecture.

    Attributes:
        name: What to call it in a report.
        base: Directory of the one.
        tuned: Directory of the other.
        layers: Number of blocks.
        parameters: Number of weights in the linear layers of the blocks.
    """

    name: str
    base: Path
    tuned: Path
    layers: int
    parameters: int

    @property
    def files(self) -> list[Path]:
        """The two files of tensors."""
        return [self.base / _FILE, self.tuned / _FILE]

    @property
    def nbytes(self) -> int:
        """Size of both files."""
        return sum(file.stat().st_size for file in self.files)

    def remove(self) -> None:
        """Delete both checkpoints, and the optima kept beside them."""
        shutil.rmtree(self.base.parent)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some whole rows of a tensor, made when they are needed.

    Attributes:
        tensor: Its name.
        start: Bytes of the tensor before this piece.
        make: Gives the bf16 bits of both sides.
    """

    tensor: str
    start: int
    make: Callable[[], tuple[Bits, Bits]]


def write_pair(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, object],
    pieces: Iterable[Piece],
) -> None:
    """Write both checkpoints; the directory appears when they are complete.

    Args:
        directory: Gets the subdirectories ``base`` and ``tuned``.
        shapes: Of all tensors, in the order of the files.
        config: Content of both ``config.json``.
        pieces: They cover every tensor; as many are made at a time as there are cores.
    """
    work = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    for side in _SIDES:
        (work / side).mkdir(parents=True)
        (work / side / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    layout = [(name, "BF16", shape) for name, shape in shapes.items()]
    notes = {"format": "pt"}
    with (
        SafetensorsWriter(work / "base" / _FILE, layout, notes) as base,
        SafetensorsWriter(work / "tuned" / _FILE, layout, notes) as tuned,
    ):
        for piece, (before, after) in _made(pieces):
            base.write_part(piece.tensor, before, piece.start)
            tuned.write_part(piece.tensor, after, piece.start)
    work.rename(directory)


def tensor_piece(name: str, shape: tuple[int, int]) -> Piece:
    """Return a whole tensor: random weights and a change of rank 32 plus full-rank noise.

    The low-rank part has column scales k^-1/2; the noise is a fifth of it. Both are rounded
    with the weights. The numbers depend on the name and the shape alone.
    """

    def make() -> tuple[Bits, Bits]:
        rng = generator(name)
        weight = bf16_from_float32(gaussian(rng, shape, WEIGHT_RMS))
        changed = float32_from_bf16(weight) + _change(rng, shape)
        return weight, bf16_from_float32(changed)

    return Piece(name, 0, make)


def copied_pieces(source: Pair, names: Iterable[str]) -> Iterator[Piece]:
    """Return tensors of a pair that is there already."""
    sides = [_mapped_tensors(file) for file in source.files]
    for name in names:
        yield ready_piece(name, *(side[name] for side in sides))


def ready_piece(name: str, before: Bits, after: Bits) -> Piece:
    """Return a whole tensor that is there already."""
    return Piece(name, 0, lambda: (before, after))


def generator(name: str) -> np.random.Generator:
    """Return the source of random numbers that belongs to a name."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def gaussian(rng: np.random.Generator, shape: tuple[int, ...], rms: float) -> NDArray[np.float32]:
    """Return independent Gaussian numbers in float32."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(rms)


def _change(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
    scales = np.arange(1, CHANGE_RANK + 1, dtype=np.float32) ** -0.5
    left = gaussian(rng, (shape[0], CHANGE_RANK), 1.0) * scales
    change = left @ gaussian(rng, (CHANGE_RANK, shape[1]), 1.0)
    change *= np.float32(CHANGE_RMS) / change.std()
    return change + gaussian(rng, shape, NOISE_RMS)


def _made(pieces: Iterable[Piece]) -> Iterator[tuple[Piece, tuple[Bits, Bits]]]:
    """Make pieces in their order, a few ahead of the one that is asked for."""
    workers = len(os.sched_getaffinity(0))
    ahead: deque[tuple[Piece, Future[tuple[Bits, Bits]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for piece in pieces:
            ahead.append((piece, pool.submit(piece.make)))
            if len(ahead) > workers:
                done, future = ahead.popleft()
                yield done, future.result()
        for done, future in ahead:
            yield done, future.result()


def _mapped_tensors(file: Path) -> dict[str, Bits]:
    """Return the bf16 tensors of a file, flat and mapped."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    data = np.memmap(file, np.uint8, "r", offset=8 + size)
    header.pop("__metadata__", None)
    spans = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: data[begin:end].view(np.uint16) for name, (begin, end) in spans.items()}
