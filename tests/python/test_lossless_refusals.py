"""Residuals that are missing, damaged or made for something else, and what may go wrong beside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import loragraft
from command_line import CommandLine
from command_line import loragraft as loragraft_fixture
from lora_files import Q0, random_factors, write_adapter
from loragraft.adapter.peft import read_adapter
from loragraft.adapter.peft_config import RESIDUAL_FILE
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError, LoragraftError, MismatchError, UsageError
from loragraft.lossless.making import write_residual
from lossless_files import Lossless, check_identical, patched, residual_of, write_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lora_files import Array

command = loragraft_fixture
Q, NORM = f"{Q0}.weight", "model.norm.weight"
GAPS, VALUES, WHOLE = f"{Q}.gaps", f"{Q}.values", f"{NORM}.whole"


def change_norm(tuned: dict[str, Array]) -> None:
    tuned[NORM] *= 1.25


@pytest.fixture
def made(tmp_path: Path) -> Lossless:
    """Tensors of each kind: ``Q`` is stored sparse, ``NORM`` whole."""
    return patched(*write_pair(tmp_path, change=change_norm), tmp_path / "adapter")


def refused(made: Lossless, out: Path, error: type[LoragraftError], pattern: str) -> None:
    with pytest.raises(error, match=pattern) as caught:
        loragraft.merge(made.base, made.adapter, out / "deep", patch=True)
    assert str(caught.value).isprintable()
    assert not out.exists()


# The manifest


def of_q(**changes: Any) -> Callable[[Any], Any]:
    def change(manifest: Any) -> Any:
        entry = next(entry for entry in manifest["tensors"] if entry["name"] == Q)
        entry.update(changes)
        return manifest

    return change


def drop(manifest: Any) -> Any:
    manifest["tensors"] = [entry for entry in manifest["tensors"] if entry["name"] != Q]
    return manifest


def twice(manifest: Any) -> Any:
    manifest["tensors"].append(manifest["tensors"][0])
    return manifest


def forget(field: str) -> Callable[[Any], Any]:
    def change(manifest: Any) -> Any:
        del manifest["tensors"][2][field]
        return manifest

    return change


def stranger(manifest: Any) -> Any:
    entry = {"name": "new", "dtype": "F32", "shape": [2], "sha256": "0" * 64, "stored": "whole"}
    manifest["tensors"].append(entry)
    return manifest


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda _: "{", "not valid JSON"),
        (lambda _: "[]", "expected a JSON object"),
        (lambda _: "{}", "expected tensors alone"),
        (lambda _: {"tensors": []}, "a list with some"),
        (lambda _: {"tensors": {}}, "a list with some"),
        (lambda m: {**m, "more": 1}, "expected tensors alone"),
        (lambda _: {"tensors": ["x"]}, "has the entry 'x'"),
        (lambda _: '{"tensors":[],"tensors":[]}', "twice"),
        (lambda _: "[" * 100_000, "nested too deeply"),
        (drop, "belongs to no entry"),
        (twice, "names tensor .* twice"),
        (stranger, "no tensor 'new.whole'"),
        *((forget(field), "has the entry") for field in ("name", "dtype", "shape", "sha256")),
        (forget("stored"), "expected dtype, name, sha256, shape, stored"),
        (of_q(more=1), "has the entry"),
        (of_q(name=""), "the tensor name ''"),
        (of_q(name="a\x1b[31m"), "the tensor name"),
        (of_q(name=3), "the tensor name 3"),
        (of_q(name="other"), r"belongs to no entry"),
        (of_q(dtype="F12"), "unknown dtype 'F12'"),
        (of_q(dtype=[]), "unknown dtype"),
        (of_q(dtype="F32"), r"values' is U16 of shape .* expected U32"),
        (of_q(shape=24), "the shape 24"),
        (of_q(shape=[-24, -24]), "the shape"),
        (of_q(shape=[True]), "the shape"),
        (of_q(shape=[2**63]), "the shape"),
        (of_q(shape=[1] * 33), "the shape"),
        (of_q(shape=[3], dtype="F4"), "the shape"),
        (of_q(sha256="0" * 63), "64 hexadecimal digits"),
        (of_q(sha256="G" * 64), "64 hexadecimal digits"),
        (of_q(sha256=None), "64 hexadecimal digits"),
        (of_q(stored="dense"), "'dense' is stored, expected one of nothing, sparse, whole"),
        (of_q(stored=[]), "is stored"),
        (of_q(stored="whole"), "belongs to no entry"),
        (of_q(stored="nothing"), "belongs to no entry"),
    ],
)
def test_manifests(
    made: Lossless, tmp_path: Path, change: Callable[[Any], Any], pattern: str
) -> None:
    made.rewrite(manifest=change)
    refused(made, tmp_path / "out", FormatError, pattern)


def test_no_manifest(made: Lossless, tmp_path: Path) -> None:
    made.rewrite(key="loragraft.residual/2")
    refused(made, tmp_path / "out", FormatError, "the metadata have no loragraft.residual/1")


# The tensors


def replace(key: str, array: Callable[[Array], Array]) -> Callable[[dict[str, Array]], None]:
    def change(tensors: dict[str, Array]) -> None:
        tensors[key] = array(tensors[key])

    return change


def set_code(place: int, code: int) -> Callable[[dict[str, Array]], None]:
    def change(tensors: dict[str, Array]) -> None:
        tensors[GAPS][place] = code

    return change


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda t: t.pop(GAPS), r"no tensor '.*q_proj.weight.gaps'"),
        (lambda t: t.pop(VALUES), r"no tensor '.*q_proj.weight.values'"),
        (lambda t: t.pop(WHOLE), r"no tensor 'model.norm.weight.whole'"),
        (lambda t: t.update(more=np.ones(1)), "tensor 'more' belongs to no entry"),
        (replace(GAPS, lambda a: a.astype(np.int32)), "gaps' is I32 .* expected U16"),
        (replace(GAPS, lambda a: a.reshape(1, -1)), r"gaps' is U16 of shape \[1, "),
        (replace(VALUES, lambda a: a.astype(np.uint8)), "values' is U8 .* expected U16"),
        (replace(VALUES, lambda a: a.view(np.float16)), "values' is F16 .* expected U16"),
        (replace(WHOLE, lambda a: a.astype(np.float32)), "whole' is F32 .* expected BF16"),
        (replace(WHOLE, lambda a: a[:-1]), r"whole' is BF16 of shape \[23\], expected .*\[24\]"),
        (replace(GAPS, lambda a: a[:-1]), r"records \d+ positions, but .* has \d+ values"),
        (replace(VALUES, lambda a: a[:-1]), r"records \d+ positions, but .* has \d+ values"),
        (replace(GAPS, lambda a: a[:0]), r"records 0 positions, but .* has \d+ values"),
        (set_code(0, 0xFFFE), r"leads to unit \d+, expected less than 576"),
        (set_code(-1, 600), r"leads to unit \d+, expected less than 576"),
        (set_code(3, 0xFFFF), r"leads to unit \d+, expected less than 576"),
        (replace(GAPS, lambda a: np.full_like(a, 0xFFFF)), "leads to unit"),
    ],
)
def test_tensors(
    made: Lossless, tmp_path: Path, change: Callable[[dict[str, Array]], object], pattern: str
) -> None:
    made.rewrite(tensors=change)
    refused(made, tmp_path / "out", FormatError, pattern)


def test_a_code_that_records_nothing_at_the_end(tmp_path: Path) -> None:
    """In a tensor so large that it leads nowhere wrong."""

    def add(tensors: dict[str, Array]) -> None:
        tensors["wide"] = np.zeros((70, 1000), np.float16)

    def change(tensors: dict[str, Array]) -> None:
        add(tensors)
        tensors["wide"][0, 0] = 1.0

    made = patched(*write_pair(tmp_path, change_base=add, change=change), tmp_path / "adapter")
    made.rewrite(tensors=replace("wide.gaps", lambda a: np.append(a, np.uint16(0xFFFF))))
    refused(made, tmp_path / "out", FormatError, "ends with a code that records nothing")


def test_truncated_or_missing(made: Lossless, tmp_path: Path) -> None:
    whole = made.residual.read_bytes()
    for size in (0, 7, 40, len(whole) // 2, len(whole) - 1):
        made.residual.write_bytes(whole[:size])
        refused(made, tmp_path / "out", FormatError, "not a valid safetensors file")
    made.residual.unlink()
    pattern = "no residual.safetensors; .* loragraft extract BASE TUNED -o OUT --exact --patch"
    refused(made, tmp_path / "out", FormatError, pattern)


# What it was not made for


@pytest.mark.parametrize(
    "change",
    [
        replace(VALUES, lambda a: a ^ 1),
        replace(WHOLE, lambda a: a[::-1].copy()),
        replace(GAPS, lambda a: np.append(a[1:], a[0])),
    ],
)
def test_other_bits(
    made: Lossless, tmp_path: Path, change: Callable[[dict[str, Array]], object]
) -> None:
    made.rewrite(tensors=change)
    refused(made, tmp_path / "out", MismatchError, r"tensor model.*: got SHA-256 .*, expected")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (of_q(sha256="0" * 64), f"tensor {Q}: got SHA-256 .*, expected 0000"),
        (of_q(shape=[48, 12]), f"tensor {Q}: got BF16 of shape .24, 24., .* become BF16 of"),
        (of_q(dtype="I16"), f"tensor {Q}: got BF16 of shape .* can become I16"),
    ],
)
def test_other_manifests(
    made: Lossless, tmp_path: Path, change: Callable[[Any], Any], pattern: str
) -> None:
    made.rewrite(manifest=change)
    refused(made, tmp_path / "out", MismatchError, pattern)


def test_another_base(made: Lossless, tmp_path: Path) -> None:
    def change(base: dict[str, Array]) -> None:
        base[Q] = base[Q] * -1

    other, _ = write_pair(tmp_path / "other", change_base=change)
    wrong = Lossless(other, made.tuned, made.adapter, made.summary)
    refused(wrong, tmp_path / "out", MismatchError, f"{Q}: got SHA-256 .* or the adapter is not")
    lacks, _ = write_pair(tmp_path / "lacks", change_base=lambda base: base.pop("lm_head.weight"))
    wrong = Lossless(lacks, made.tuned, made.adapter, made.summary)
    refused(wrong, tmp_path / "out", MismatchError, "tensor lm_head.weight: got no such tensor")


def test_another_adapter(made: Lossless, tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "other", random_factors((Q0,), 2, seed=9, scale=0.3))
    made.residual.rename(other / RESIDUAL_FILE)
    wrong = Lossless(made.base, made.tuned, other, made.summary)
    refused(wrong, tmp_path / "out", MismatchError, "tensor model.*: got SHA-256")


def test_a_dtype_beside_the_patch(made: Lossless, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave out --dtype or --patch"):
        loragraft.merge(made.base, made.adapter, tmp_path / "out", patch=True, dtype="bf16")


# Making it


def test_a_limit(tmp_path: Path) -> None:
    made = patched(*write_pair(tmp_path, change=change_norm), tmp_path / "adapter")
    size = made.residual.stat().st_size
    check_identical(made, tmp_path / "out")
    for limit in (0, 100, size // 2, size - 1):
        made.residual.unlink(missing_ok=True)
        summary = residual_of(made.base, made.tuned, made.adapter, limit=limit)
        assert not summary.written
        assert limit < summary.nbytes <= size
        assert not made.residual.exists()
    summary = residual_of(made.base, made.tuned, made.adapter, limit=size)
    assert (summary.written, summary.nbytes) == (True, size)
    data = summary.to_json()
    assert data == json.loads(json.dumps(data))
    assert data["tensors"] == {"nothing": 7, "sparse": 3, "whole": 1}


def test_an_error_leaves_what_was_there(made: Lossless, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in made.adapter.iterdir()}

    def stop(name: str, done: int, total: int) -> None:
        assert 0 < done <= total
        if done > total // 2:
            raise KeyboardInterrupt

    sides = open_checkpoint(made.base), open_checkpoint(made.tuned)
    adapter = read_adapter(made.adapter)
    with pytest.raises(KeyboardInterrupt):
        write_residual(*sides, adapter, made.residual, progress=stop)
    assert {path.name: path.read_bytes() for path in made.adapter.iterdir()} == before
    with pytest.raises(FormatError, match="cannot be written"):
        write_residual(*sides, adapter, tmp_path / "nowhere" / RESIDUAL_FILE)


def test_the_config_may_come_later(made: Lossless) -> None:
    """As an extraction has it in memory, before it writes the file."""
    wanted = made.residual.read_bytes()
    config = loragraft.extract(made.base, made.tuned, rank=3, dtype="fp16").config
    (made.adapter / "adapter_config.json").unlink()
    sides = open_checkpoint(made.base), open_checkpoint(made.tuned)
    write_residual(*sides, read_adapter(made.adapter, config), made.residual)
    assert made.residual.read_bytes() == wanted


def test_a_new_extraction_takes_the_residual_away(made: Lossless) -> None:
    loragraft.extract(made.base, made.tuned, made.adapter, rank=2, force=True)
    assert not made.residual.exists()


# The command


def test_merge_with_the_patch(command: CommandLine, made: Lossless, tmp_path: Path) -> None:
    arguments = ("merge", made.base, made.adapter, "--patch", "-o")
    answer = command(*arguments, tmp_path / "out")
    assert (answer.code, answer.err) == (0, "")
    said = " ".join(answer.out.split())
    assert "all 11 tensors identical to the tuned checkpoint's (SHA-256)" in said
    data = command(*arguments, tmp_path / "again", "--json").data
    assert data["identical"] == data["tensors"] == 11
    assert command(*arguments, tmp_path / "third", "--dtype", "bf16").code == 2
    plain = command("merge", made.base, made.adapter, "-o", tmp_path / "plain", "--json")
    assert plain.data["identical"] == 0


@pytest.mark.parametrize(("change", "code"), [("values", 4), ("manifest", 3), ("gone", 3)])
def test_merge_refuses(
    command: CommandLine, made: Lossless, tmp_path: Path, change: str, code: int
) -> None:
    if change == "gone":
        made.residual.unlink()
    elif change == "values":
        made.rewrite(tensors=replace(VALUES, lambda a: a ^ 1))
    else:
        made.rewrite(manifest=of_q(stored="dense"))
    answer = command("merge", made.base, made.adapter, "--patch", "-o", tmp_path / "out")
    assert (answer.code, answer.out) == (code, "")
    assert answer.error
    assert not (tmp_path / "out").exists()


def test_inspect_tells_of_it(command: CommandLine, made: Lossless) -> None:
    answer = command("inspect", made.adapter)
    assert "residual" in answer.out
    data = command("inspect", made.adapter, "--json").data
    assert data["residual_bytes"] == made.residual.stat().st_size
    made.residual.unlink()
    assert command("inspect", made.adapter, "--json").data["residual_bytes"] is None


def test_an_adapter_with_a_residual_is_no_checkpoint(command: CommandLine, made: Lossless) -> None:
    answer = command("extract", made.adapter, made.tuned, "-o", made.adapter.parent / "x")
    assert answer.code == 3
    assert "holds an adapter" in answer.error
