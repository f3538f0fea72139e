"""What a target is, and how its inputs are kept and found."""

from __future__ import annotations

import importlib
import io
import json
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from loragraft.errors import LoragraftError
from loragraft.report.inspection_table import inspection_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

    from loragraft.report.inspection import Inspection

HERE = Path(__file__).parent
#: A reader of one small file that takes longer is one that a stranger can stop.
SECONDS = 10


class Target(NamedTuple):
    """A module ``target_NAME.py`` of this folder.

    Attributes:
        name: NAME.
        check: Feeds an input to the code under test; whatever it raises is a finding.
        seeds: Inputs to begin with.
        mutate: Makes another input of one, or None where changed bytes will do.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    mutate: Callable[[bytes, Random], bytes] | None


def names() -> list[str]:
    return sorted(path.stem.removeprefix("target_") for path in HERE.glob("target_*.py"))


def load(name: str) -> Target:
    module = importlib.import_module(f"target_{name}")
    return Target(name, module.check, module.seeds, getattr(module, "mutate", None))


def stored(kind: str, name: str) -> list[Path]:
    """The inputs that are kept, ``corpus`` or ``crashes``."""
    return sorted(path for path in (HERE / kind / name).glob("*") if path.is_file())


@contextmanager
def refusals() -> Iterator[None]:
    """Let pass what a user may be told: one printable line, not a page of the file."""
    try:
        yield
    except LoragraftError as error:
        message = str(error)
        assert message.isprintable(), repr(message)
        assert len(message) < 8000, f"{len(message)} characters: {message[:200]}"


def check_page(found: Inspection) -> None:
    """What people are shown of a file must not act on their terminal."""
    file = io.StringIO()
    Console(file=file, width=120, color_system=None).print(inspection_table(found))
    assert file.getvalue().replace("\n", "").isprintable(), repr(file.getvalue())


@cache
def scratch() -> Path:
    """A folder of this process, which goes with it."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() else None
    holder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=place)
    _holders.append(holder)
    return Path(holder.name)


_holders: list[tempfile.TemporaryDirectory[str]] = []


def sparse_safetensors(path: Path, header: bytes, most: int = 2**40) -> int:
    """Write a file of this header, with as many zeros behind it as it speaks of; their number."""
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        size = min(data_bytes(header), most)
        file.truncate(8 + len(header) + size)
    return size


def data_bytes(header: bytes) -> int:
    """Where the last tensor of a header ends; 0 where nobody can tell."""
    try:
        infos = json.loads(header).values()
        ends = [info["data_offsets"][1] for info in infos if "data_offsets" in info]
        return max([end for end in ends if isinstance(end, int) and end >= 0], default=0)
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError):
        return 0


def header_of(tensors: dict[str, tuple[str, list[int], int]]) -> dict[str, Any]:
    """A header: name -> (dtype, shape, bytes)."""
    header, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return header
