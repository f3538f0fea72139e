"""Numbers at the edges: NaN and Inf are told with their place, fp16 never overflows in silence,
subnormal numbers and signs of zero survive, and the way of reading changes no byte."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import lora_files as files
from command_line import CommandLine, loragraft
from loragraft.adapted.tensors import TensorMerger
from loragraft.checkpoint import open_checkpoint
from loragraft.finiteness import first_not_finite, place_of
from loragraft.tensor_reader import TensorReader
from reliability import record

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["loragraft"]

TINY = {"BF16": 2.0**-133, "F16": 2.0**-24, "F32": 2.0**-149}
"""The least positive number of each format, which is subnormal."""
NORM = "model.norm.weight"


def edge_weights(dtype: str) -> dict[str, Any]:
    """A toy whose tensors hold subnormal numbers and zeros of both signs."""
    weights = files.random_weights(dtype=dtype)
    edges = np.array([0.0, -0.0, TINY[dtype], -TINY[dtype], 3 * TINY[dtype], 1.0])
    for name, tensor in weights.items():
        size = tensor.size
        weights[name] = np.resize(edges, size).astype(tensor.dtype).reshape(tensor.shape)
    return weights


def bits(array: Any) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("place", [(0, 0), (3, 17), (1023, 1024), (1500, 1), (1999, 1024)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_is_found_in_any_slab(
    tmp_path: Path, dtype: str, place: tuple[int, int], value: float
) -> None:
    array = np.ones((2000, 1025), files.NUMPY_DTYPES[dtype])
    array[-1, -1] = np.nan
    array[place] = value
    entry = open_checkpoint(files.write_checkpoint(tmp_path / "x", {"w": array})).tensors["w"]
    kind = "NaN" if np.isnan(value) else "Inf"
    with TensorReader() as reader:
        told = first_not_finite(reader, entry)
    assert told == f"{kind} at {list(place)}"


def test_places_of_any_number_of_dimensions(tmp_path: Path) -> None:
    shapes = {"a": (), "b": (5,), "c": (2, 3, 4), "d": (0, 3)}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    entries = open_checkpoint(files.write_checkpoint(tmp_path / "x", tensors)).tensors
    for name, shape in shapes.items():
        for number, place in enumerate(np.ndindex(shape)):
            assert place_of(entries[name], number) == str(list(place))
    with TensorReader() as reader:
        assert [first_not_finite(reader, entry) for entry in entries.values()] == [""] * 4


@pytest.mark.parametrize("command", ["extract", "verify", "merge", "compare"])
def test_commands_tell_the_place(loragraft: CommandLine, tmp_path: Path, command: str) -> None:
    case = files.noisy_pair(tmp_path)
    spoilt = {name: array.copy() for name, array in case["base"].items()}
    spoilt[f"{files.Q0}.weight"][7, 11] = -np.inf
    base = files.write_checkpoint(tmp_path / "spoilt", spoilt)
    _, tuned, adapter = case["paths"]
    rest = {"extract": [tuned, "-o", "o"], "verify": [tuned, adapter], "compare": [tuned]}
    answer = loragraft(command, base, *rest.get(command, [adapter, "-o", tmp_path / "out"]))
    assert answer.code == 6
    for text in (f"{base}/model.safetensors", f"{files.Q0}.weight", "Inf at [7, 11]"):
        assert text in answer.error


def test_a_merge_that_overflows_tells_the_place(loragraft: CommandLine, tmp_path: Path) -> None:
    base = files.write_checkpoint(tmp_path / "base", files.random_weights(dtype="F16"))
    b, a = np.zeros((24, 1), np.float32), np.zeros((1, 24), np.float32)
    b[5], a[0, 9] = 300.0, 300.0
    adapter = files.write_adapter(tmp_path / "adapter", {files.Q0: (b, a)})
    answer = loragraft("merge", base, adapter, "-o", tmp_path / "out")
    assert answer.code == 6
    assert "the weight at [5, 9] overflows F16" in answer.error
    assert not (tmp_path / "out").exists()


def test_a_conversion_that_overflows_tells_the_place(
    loragraft: CommandLine, tmp_path: Path
) -> None:
    weights = files.random_weights(dtype="F32")
    weights[NORM][13] = 1e5
    base = files.write_checkpoint(tmp_path / "base", weights)
    adapter = files.write_adapter(tmp_path / "adapter", files.random_factors((files.Q0,), 2))
    answer = loragraft("merge", base, adapter, "-o", tmp_path / "out", "--dtype", "fp16")
    assert answer.code == 6
    for text in (NORM, "1e+05", "overflows F16", "at [13]"):
        assert text in answer.error


@pytest.mark.parametrize("alpha", [None, 1e-4, 1e4])
@pytest.mark.parametrize("size", [1e3, 1e7, 1e9, 1e13, 1e30])
def test_factors_in_fp16_never_overflow_in_silence(
    loragraft: CommandLine, tmp_path: Path, size: float, alpha: float | None
) -> None:
    """Told where fp16 is asked for, avoided where it is not."""
    base = files.random_weights(dtype="F32")
    rng = np.random.default_rng(1)
    tuned = dict(base)
    change = size * np.outer(rng.standard_normal(24), rng.standard_normal(24))
    tuned[f"{files.Q0}.weight"] = (base[f"{files.Q0}.weight"] + change).astype(np.float32)
    sides = [
        files.write_checkpoint(tmp_path / name, weights)
        for name, weights in (("base", base), ("tuned", tuned))
    ]
    options = ["--rank", "2", *([] if alpha is None else ["--alpha", str(alpha)])]
    auto = loragraft("extract", *sides, "-o", tmp_path / "auto", *options)
    assert auto.code == 0, auto.err
    asked = loragraft("extract", *sides, "-o", tmp_path / "fp16", *options, "--dtype", "fp16")
    for place in ("auto", "fp16"):
        if (tmp_path / place).exists():
            for array in files.read_checkpoint(tmp_path / place).values():
                assert np.isfinite(array.astype(np.float32)).all()
    if asked.code:
        assert (asked.code, "exceed the range of fp16 (65504)" in asked.error) == (2, True)
        assert not (tmp_path / "fp16").exists()
        factors = files.read_checkpoint(tmp_path / "auto").values()
        assert {array.dtype.name for array in factors} == {"bfloat16"}


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_subnormal_numbers_and_signs_survive_a_merge(
    loragraft: CommandLine, tmp_path: Path, dtype: str
) -> None:
    """Tensors that nothing changes bit for bit; a sum with zero as IEEE 754 has it: -0 + 0 is 0."""
    weights = edge_weights(dtype)
    base = files.write_checkpoint(tmp_path / "base", weights)
    zeros = {files.Q0: (np.zeros((24, 1), np.float32), np.zeros((1, 24), np.float32))}
    adapter = files.write_adapter(tmp_path / "adapter", zeros)
    assert loragraft("merge", base, adapter, "-o", tmp_path / "out").code == 0
    merged = files.read_checkpoint(tmp_path / "out")
    for name, before in weights.items():
        changed = name == f"{files.Q0}.weight"
        expected = (before.astype(np.float32) + np.float32(0)).astype(before.dtype)
        assert bits(merged[name]) == bits(expected if changed else before), name


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("target", ["bf16", "fp16", "fp32"])
def test_subnormal_numbers_and_signs_survive_conversion(
    loragraft: CommandLine, tmp_path: Path, dtype: str, target: str
) -> None:
    weights = edge_weights(dtype)
    base = files.write_checkpoint(tmp_path / "base", weights)
    adapter = files.write_adapter(tmp_path / "adapter", files.random_factors((files.Q0,), 2))
    out = tmp_path / "out"
    assert loragraft("merge", base, adapter, "-o", out, "--dtype", target).code == 0
    code = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}[target]
    for name, after in files.read_checkpoint(out).items():
        if name != f"{files.Q0}.weight":
            wide = weights[name].astype(np.float32)
            assert bits(after) == bits(wide.astype(files.NUMPY_DTYPES[code])), name


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_whole_tensors_are_carried_bit_for_bit(
    loragraft: CommandLine, tmp_path: Path, dtype: str
) -> None:
    case = files.noisy_pair(tmp_path, dtype=dtype)
    tuned = dict(case["tuned"])
    tuned[NORM] = edge_weights(dtype)[NORM]
    there = files.write_checkpoint(tmp_path / "edges", tuned)
    out, merged = tmp_path / "out", tmp_path / "merged"
    options = ["--rank", "2", "--save-whole", "norms"]
    assert loragraft("extract", case["paths"][0], there, "-o", out, *options).code == 0
    (carried,) = [a for name, a in files.read_checkpoint(out).items() if name.endswith(NORM)]
    assert bits(carried) == bits(tuned[NORM])
    assert loragraft("merge", case["paths"][0], out, "-o", merged).code == 0
    assert bits(files.read_checkpoint(merged)[NORM]) == bits(tuned[NORM])


def test_a_change_of_subnormal_size_is_found(loragraft: CommandLine, tmp_path: Path) -> None:
    base = files.random_weights(dtype="F32")
    base[f"{files.Q0}.weight"] = np.zeros((24, 24), np.float32)
    tuned = dict(base)
    tuned[f"{files.Q0}.weight"] = np.full((24, 24), 5 * TINY["F32"], np.float32)
    sides = [
        files.write_checkpoint(tmp_path / name, weights)
        for name, weights in (("base", base), ("tuned", tuned))
    ]
    answer = loragraft("extract", *sides, "-o", tmp_path / "out", "--rank", "1", "--json")
    assert answer.code == 0, answer.err
    assert answer.data["modules"][0]["name"] == files.Q0


WAYS = tuple(itertools.product([1, 2, 7], ["mmap", "pread"]))


def test_the_way_of_reading_changes_no_byte(
    loragraft: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads, mapping or reading, one file or several, and slabs of any size."""
    base, one, _ = files.noisy_pair(tmp_path)["paths"]
    five = files.write_checkpoint(tmp_path / "five", files.read_checkpoint(one), shards=5)
    seen = set()
    slab_sizes = (1, 7, 1 << 20)
    for number, (threads, io) in enumerate(WAYS):
        monkeypatch.setattr("loragraft.adapter.tokens._SLAB_BYTES", slab_sizes[number % 3])
        out = tmp_path / str(number)
        tuned = one if number % 2 else five
        options = ["--threads", threads, "--io", io, "--rank", "3", "--save-whole", "all"]
        assert loragraft("extract", base, tuned, "-o", out, *options).code == 0
        seen.add((out / "adapter_model.safetensors").read_bytes())
    assert len(seen) == 1
    record("number_edges", {"ways of reading with equal bytes": len(WAYS)})


@pytest.mark.parametrize("numbers", [1, 3, 64, 10**6])
def test_parts_of_any_size_make_the_same_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: int
) -> None:
    """Of copied and converted tensors, which are elementwise; products have slabs of their own."""
    weights = edge_weights("F32")
    base = open_checkpoint(files.write_checkpoint(tmp_path / "base", weights))

    def parts(start: int, stop: int, _bytes_each: int) -> Any:
        return ((low, min(stop, low + numbers)) for low in range(start, stop, numbers))

    monkeypatch.setattr("loragraft.adapted.tensors.ranges", parts)
    for code in ("F32", "BF16", "F16"):
        with TensorReader() as reader:
            merger = TensorMerger(reader, {}, dict.fromkeys(base.tensors, code), {})
            for name, entry in base.tensors.items():
                made = b"".join(part.data.tobytes() for part in merger.parts(entry))
                assert made == bits(weights[name].astype(files.NUMPY_DTYPES[code])), name
