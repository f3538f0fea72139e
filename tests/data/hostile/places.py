"""What lies where a file is expected: pipes, devices, sockets, directories, links to anywhere."""

from __future__ import annotations

import os
import shutil
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hostile import toy
from hostile.case import ADAPTER, CHECKPOINT, Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KIND: Final = "place"


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    """Addresses of sockets are short: bind beside the path, from inside."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def _link(target: str, path: Path) -> None:
    path.symlink_to(target)


def _itself(path: Path) -> None:
    path.symlink_to(path.name)


def _chain(path: Path) -> None:
    """More links in a row than the system follows."""
    for number in range(60):
        path.with_name(f"link{number}").symlink_to(f"link{number + 1}")
    path.symlink_to("link0")


_PLACES: Final[dict[str, Callable[[Path], None]]] = {
    "a directory": _directory,
    "a pipe": _fifo,
    "a socket": _socket,
    "a link to a device without end": partial(_link, "/dev/zero"),
    "a link to the terminal": partial(_link, "/dev/tty"),
    "a link to the empty device": partial(_link, "/dev/null"),
    "a link to nothing": partial(_link, "nowhere"),
    "a link to itself": _itself,
    "a link to its own directory": partial(_link, "."),
    "links in a chain": _chain,
    "a link to memory": partial(_link, "/proc/self/mem"),
    "a link to a list of pages": partial(_link, "/proc/self/maps"),
    "a link to a file of accounts": partial(_link, "/etc/passwd"),
}
_NAMES: Final = ("model.safetensors", "config.json", toy.INDEX_NAME)
_ADAPTER_NAMES: Final = ("adapter_model.safetensors", "adapter_config.json")


def _checkpoint(name: str, put: Callable[[Path], None], directory: Path) -> None:
    toy.write_checkpoint(directory, toy.tensors(1))
    (directory / name).unlink(missing_ok=True)
    put(directory / name)


def _adapter(name: str, put: Callable[[Path], None], directory: Path) -> None:
    toy.write_adapter(directory)
    (directory / name).unlink()
    put(directory / name)


def _itself_as_base(put: Callable[[Path], None], directory: Path) -> None:
    put(directory / "thing")


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for place, put in _PLACES.items():
        for name in _NAMES:
            make = partial(_checkpoint, name, put)
            yield Case(_KIND, f"{name} is {place}", make, CHECKPOINT[:2])
        for name in _ADAPTER_NAMES:
            make = partial(_adapter, name, put)
            yield Case(_KIND, f"{name} is {place}", make, ADAPTER[:3])
        make = partial(_itself_as_base, put)
        codes = (3,)
        yield Case(_KIND, f"BASE is {place}", make, CHECKPOINT[:4], codes, subject="thing")
    yield Case(_KIND, "shards are links (legal)", _linked, CHECKPOINT[:2], (0,))
    yield Case(_KIND, "a report is a pipe (legal)", _odd_report, ADAPTER[:2], (0,))
    yield Case(_KIND, "a tokenizer is a pipe (legal)", _odd_tokenizer, CHECKPOINT[:2], (0,))
    for subject in ("no UTF-8 \udcff", "line\nbreak", "\x1b[31mred"):
        for write, commands in ((_checkpoint_in, CHECKPOINT), (_adapter_in, ADAPTER)):
            make = partial(write, subject)
            name = f"{write.__name__[1:-3]} in {subject!a} (legal)"
            yield Case(_KIND, name, make, commands, (0,), subject=subject)
    yield Case(_KIND, "a directory of nothing", lambda _: None, CHECKPOINT[:2])
    yield Case(_KIND, "an adapter without a config", _no_config, ADAPTER[:3])
    yield Case(_KIND, "an adapter of pickles", _pickled, ADAPTER[:3])


def _checkpoint_in(name: str, directory: Path) -> None:
    toy.write_checkpoint(directory / name, toy.tensors(2))


def _adapter_in(name: str, directory: Path) -> None:
    toy.write_adapter(directory / name)


def _linked(directory: Path) -> None:
    toy.write_checkpoint(directory / "blobs", toy.tensors(1))
    shutil.move(directory / "blobs" / "model.safetensors", directory / "blobs" / "0123abcd")
    (directory / "model.safetensors").symlink_to("blobs/0123abcd")


def _odd_report(directory: Path) -> None:
    toy.write_adapter(directory)
    os.mkfifo(directory / "report.json")


def _odd_tokenizer(directory: Path) -> None:
    toy.write_checkpoint(directory, toy.tensors(1))
    os.mkfifo(directory / "tokenizer.json")


def _no_config(directory: Path) -> None:
    toy.write_adapter(directory)
    (directory / "adapter_config.json").unlink()


def _pickled(directory: Path) -> None:
    toy.write_adapter(directory)
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
