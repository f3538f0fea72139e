"""Inputs that fuzzing found, and those it begins with, given to the same targets once more."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

import json_mutation
import target

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of all targets; a clone should not carry more.
MOST_BYTES = 1_000_000
TARGETS = target.names()


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """End an input that takes too long; regular expressions see signals, other C code may not."""

    def end(*_: object) -> None:
        raise TimeoutError(f"one input took more than {target.SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def feed(name: str, inputs: Iterator[tuple[str, bytes]]) -> None:
    check = target.load(name).check
    for label, data in inputs:
        signal.setitimer(signal.ITIMER_REAL, target.SECONDS)
        try:
            check(data)
        except BaseException as error:
            error.add_note(f"target {name}, input {label}")
            raise


def test_there_are_targets() -> None:
    assert {"adapter_config", "checkpoint", "safetensors_header", "shard_index"} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    feed(name, ((str(i), data) for i, data in enumerate(target.load(name).seeds())))


@pytest.mark.parametrize("kind", ["corpus", "crashes"])
@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept(name: str, kind: str) -> None:
    feed(name, ((path.name, path.read_bytes()) for path in target.stored(kind, name)))


@pytest.mark.parametrize("name", TARGETS)
def test_some_that_are_new(name: str) -> None:
    chosen, random = target.load(name), Random(9)
    seeds = list(chosen.seeds())
    assert chosen.mutate is not None
    feed(name, ((str(i), chosen.mutate(random.choice(seeds), random)) for i in range(200)))


def test_the_corpus_is_small() -> None:
    folders = (target.HERE / "corpus", target.HERE / "crashes")
    sizes = [path.stat().st_size for f in folders for path in f.rglob("*") if path.is_file()]
    assert sum(sizes) < MOST_BYTES


def test_mutations_stay_json() -> None:
    random = Random(1)
    text = b'{"a":{"shape":[1,2],"dtype":"F32"},"b":null}'
    changed = {json_mutation.mutate(text, random) for _ in range(200)}
    assert len(changed) > 100
    for other in changed:
        try:
            json.loads(other)
        except RecursionError:
            assert other.count(b"[") > 500


def test_no_folder_is_without_a_target() -> None:
    native = [path.stem for path in (target.HERE / "native").glob("*.cpp")]
    for kind in ("corpus", "crashes"):
        for folder in (target.HERE / kind).glob("*/"):
            assert Path(folder).name in {*TARGETS, *native}
