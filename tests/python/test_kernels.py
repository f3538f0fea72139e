"""The kernels below the public ones: conversions bit for bit, random numbers, every ISA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest

import isa_worker as worker
import lora_files as files
import native_tasks as nt
import spectra
from loragraft import native
from loragraft.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

U32 = 2.0**-24
CODES = np.arange(2**16, dtype=np.uint16)
ISAS = native.available_isas()
NARROW_TYPES: dict[str, Any] = {"BF16": ml_dtypes.bfloat16, "F16": np.float16}
#: Mask of the quiet bit of a NaN.
QUIET = {"BF16": 0x40, "F16": 0x200}


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)


def widened(codes: NDArray[np.uint16], dtype: str, isa: str = "") -> NDArray[np.float32]:
    return native.widen(codes.tobytes(), dtype, isa)


def narrowed(values: NDArray[np.float32], dtype: str) -> NDArray[np.uint16]:
    return np.frombuffer(native.narrow(values, dtype), np.uint16)


def reference(codes: NDArray[np.uint16], dtype: str) -> NDArray[np.float32]:
    return np.asarray(codes.view(NARROW_TYPES[dtype]).astype(np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", NARROW_TYPES)
def test_widening_every_code(dtype: str, isa: str) -> None:
    values = widened(CODES, dtype, isa)
    expected = reference(CODES, dtype)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(values), nan)
    np.testing.assert_array_equal(bits(values)[~nan], bits(expected)[~nan])
    # NaN: sign and payload at the top of the wider mantissa; hardware quiets those of fp16.
    sign = (CODES.astype(np.uint32) & 0x8000) << 16
    if dtype == "BF16":
        payload = CODES.astype(np.uint32) << 16
    else:
        payload = sign | 0x7FC00000 | ((CODES.astype(np.uint32) & 0x3FF) << 13)
    np.testing.assert_array_equal(bits(values)[nan], payload[nan])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_widening_any_length(dtype: str, isa: str) -> None:
    """Tails of every length behind whole vectors, none of them read or written beyond."""
    rng = np.random.default_rng(0)
    for length in (*range(70), 255, 1023):
        if dtype == "F32":
            values = rng.standard_normal(length).astype(np.float32)
            np.testing.assert_array_equal(
                bits(native.widen(values.tobytes(), dtype, isa)), bits(values)
            )
        else:
            start = int(rng.integers(0, 2**15))
            codes = CODES[start : start + length] & np.uint16(0x7BFF)  # finite in both formats
            np.testing.assert_array_equal(
                bits(widened(codes, dtype, isa)), bits(reference(codes, dtype))
            )


@pytest.mark.parametrize("dtype", NARROW_TYPES)
def test_narrowing_what_was_widened(dtype: str) -> None:
    nan = np.isnan(reference(CODES, dtype))
    back = narrowed(widened(CODES, dtype), dtype)
    np.testing.assert_array_equal(back[~nan], CODES[~nan])
    assert np.isnan(back[nan].view(NARROW_TYPES[dtype])).all()
    # Sign and payload of a bf16 NaN survive; an fp16 NaN keeps its sign.
    kept = 0xFFFF if dtype == "BF16" else 0x8000
    np.testing.assert_array_equal(back[nan] & kept, (CODES[nan] | QUIET[dtype]) & kept)


@pytest.mark.parametrize("dtype", NARROW_TYPES)
def test_halfway_points_go_to_the_even_neighbour(dtype: str) -> None:
    """Between all neighbours of a sign, subnormals and the step to infinity among them."""
    infinite = 0x7F80 if dtype == "BF16" else 0x7C00
    below = CODES[:infinite]
    above = below + np.uint16(1)
    low = reference(below, dtype).astype(np.float64)
    spacing = np.where(below + 1 == infinite, low - reference(below - 1, dtype), 0.0)
    high = np.where(spacing > 0.0, low + spacing, reference(above, dtype).astype(np.float64))
    with np.errstate(over="ignore"):
        middle = ((low + high) / 2.0).astype(np.float32)
    exact = middle.astype(np.float64) == (low + high) / 2.0
    assert exact.all()
    even = np.where(below % 2 == 0, below, above)
    for sign in (np.uint16(0), np.uint16(0x8000)):
        factor = np.float32(-1.0 if sign else 1.0)
        toward = np.float32(np.inf)
        np.testing.assert_array_equal(narrowed(factor * middle, dtype), even | sign)
        up = np.nextafter(middle, toward)
        down = np.nextafter(middle, -toward)
        np.testing.assert_array_equal(narrowed(factor * up, dtype), above | sign)
        np.testing.assert_array_equal(narrowed(factor * down, dtype), below | sign)


@pytest.mark.parametrize("dtype", NARROW_TYPES)
def test_narrowing_random_bit_patterns(dtype: str) -> None:
    patterns = np.random.default_rng(1).integers(0, 2**32, 10**6, dtype=np.uint32)
    # Half of them within the range of fp16, where most of what matters happens.
    patterns[::2] = (patterns[::2] & 0x87FFFFFF) | 0x30000000
    values = patterns.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(NARROW_TYPES[dtype])
    nan = np.isnan(values)
    got = narrowed(values, dtype)
    np.testing.assert_array_equal(got[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(got.view(NARROW_TYPES[dtype])[nan]).all()
    np.testing.assert_array_equal(np.isnan(got.view(NARROW_TYPES[dtype])), nan)


@pytest.mark.parametrize("dtype", NARROW_TYPES)
def test_narrowing_the_ends_of_the_range(dtype: str) -> None:
    values = np.array(
        [0.0, -0.0, np.inf, -np.inf, 65504.0, 65519.996, 65520.0, 3.4028235e38, 3.3961775e38,
         2.0**-24, 2.0**-25, 2.0**-25 * 1.0000001, 2.0**-149, 1e-40, -1e-45],
        np.float32,
    )  # fmt: skip
    with np.errstate(over="ignore"):
        expected = values.astype(NARROW_TYPES[dtype]).view(np.uint16)
    np.testing.assert_array_equal(narrowed(values, dtype), expected)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """The vectors of Random123's kat_vectors for philox4x32, 10 rounds."""
    low, high = counter[0] | counter[1] << 32, counter[2] | counter[3] << 32
    assert tuple(native.philox_block(key[0] | key[1] << 32, low, high)) == expected


def test_philox_is_a_function_of_the_counter() -> None:
    blocks = [tuple(native.philox_block(5, i, 0)) for i in range(2000)]
    assert len(set(blocks)) == 2000
    uniform = np.array(blocks, np.float64).ravel() / 2.0**32
    # Five standard errors of the mean of 8000 uniform numbers.
    assert abs(uniform.mean() - 0.5) < 5 * (1 / 12 / 8000) ** 0.5


def test_names_of_isas() -> None:
    assert ISAS[0] == "baseline"
    assert native.isa() in ISAS
    with pytest.raises(UsageError, match="this machine runs baseline"):
        native.widen(b"\0\0", "BF16", "sse9")


def start(isa: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    roots = [Path(native.__file__).parents[1], Path(__file__).parent]
    environment = {
        **os.environ,
        "LORAGRAFT_ISA": isa,
        "PYTHONPATH": os.pathsep.join(map(str, roots)),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip


PAIRS = {
    worker.tensor_name(base, tuned, width): nt.pair((worker.ROWS, width), base, tuned)
    for base in nt.MANTISSA
    for tuned in nt.MANTISSA
    for width in worker.WIDTHS
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the kernels of each ISA say of the same files and matrices."""
    directory = tmp_path_factory.mktemp("isas")
    paths = (
        nt.write(directory / "base", {name: base for name, (base, _) in PAIRS.items()}),
        nt.write(directory / "tuned", {name: tuned for name, (_, tuned) in PAIRS.items()}),
    )
    found = {}
    for isa in ISAS:
        done = start(isa, worker.__file__, *map(str, paths))
        assert done.returncode == 0, done.stderr
        found[isa] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("isa", ISAS)
def test_the_environment_names_the_isa(findings: dict[str, Any], isa: str) -> None:
    assert findings[isa]["isa"] == isa


@pytest.mark.parametrize("isa", ISAS)
def test_differences_and_sums_of_every_isa(findings: dict[str, Any], isa: str) -> None:
    """Every pair of dtypes, tails of every kind."""
    for name, (base, tuned) in PAIRS.items():
        delta = nt.delta(base, tuned)
        expected = (
            (delta**2).sum(),
            (base.astype(np.float64) ** 2).sum(),
            nt.rounding_square(tuned, name.split(".")[1]),
        )
        # Differences are formed exactly as NumPy does; only the order of the sums differs.
        assert findings[isa]["measures"][name] == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize("isa", ISAS)
def test_factors_of_every_isa(findings: dict[str, Any], isa: str) -> None:
    for name, (residual, optimal) in findings[isa]["factors"].items():
        delta = nt.delta(*PAIRS[name])
        norm = float(np.linalg.norm(delta))
        optimum = float(np.linalg.norm(np.linalg.svd(delta, compute_uv=False)[worker.RANK :]))
        # The cast to fp16 comes on top of the optimum; both sums of single-precision entries.
        slack = U32 * (worker.RANK + 2) * 2 * norm
        assert abs(optimal**0.5 - optimum) <= 1e-3 * optimum + slack, name
        assert optimum - slack <= residual**0.5 <= 1.001 * optimum + 2.0**-11 * norm, name


@pytest.mark.parametrize("isa", ISAS)
def test_decompositions_of_every_isa(findings: dict[str, Any], isa: str) -> None:
    """A matrix of exactly that rank is its own approximation, whatever the order of the sums."""
    for shape, parts in zip(worker.SVD_SHAPES, findings[isa]["svds"], strict=True):
        a = spectra.matrix("exact rank", shape, worker.RANK).astype(np.float64)
        u, s, vt = (worker.decoded(parts[part]).astype(np.float64) for part in ("U", "s", "Vt"))
        # The tolerance of test_truncated_svd for a sketch 16 wide: 28 u.
        assert np.linalg.norm(a - (u * s) @ vt) <= 28 * U32 * np.linalg.norm(a)


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx512 "])
def test_an_unknown_isa_is_refused(name: str) -> None:
    script = (
        "from loragraft import native\n"
        "from loragraft.errors import UsageError\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        native.isa()\n"
        "    except UsageError as error:\n"
        "        print(error)\n"
    )
    done = start(name, "-c", script)
    expected = f"LORAGRAFT_ISA={name}: this machine runs {', '.join(ISAS)}; unset it to choose\n"
    assert (done.returncode, done.stdout) == (0, expected * 2), done.stderr


def test_the_dtypes_are_those_of_the_files() -> None:
    assert {**NARROW_TYPES, "F32": np.float32} == files.NUMPY_DTYPES
