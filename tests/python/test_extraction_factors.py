"""Factors between kernels and file: turned where layers are stored ``[in, out]``, spooled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from loragraft.architecture.address import Address
from loragraft.extraction.factors import oriented
from loragraft.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

RANK = 3


@pytest.mark.parametrize(("dtype", "storage"), [("BF16", "<u2"), ("F16", "<f2"), ("F32", "<f4")])
@pytest.mark.parametrize("shape", [(5, 7), (2, 9), (3, 1), (1, 1)])
def test_factors_of_transposed_layers(dtype: str, storage: str, shape: tuple[int, int]) -> None:
    """(L R)ᵀ = Rᵀ Lᵀ, whichever side is the longer one."""
    rng = np.random.default_rng(0)
    rows, columns = shape
    left = rng.integers(0, 1000, (rows, RANK)).astype(storage)
    right = rng.integers(0, 1000, (RANK, columns)).astype(storage)
    result: Any = SimpleNamespace(
        lora_a=right.tobytes(), lora_b=left.tobytes(), rank=RANK, dtype=dtype
    )

    def module(*, transposed: bool) -> Any:
        out = (columns, rows) if transposed else shape
        linear = SimpleNamespace(shape=out, address=Address("m"))
        return SimpleNamespace(linear=linear, transposed=transposed)

    assert oriented(module(transposed=False), result) == (right.tobytes(), left.tobytes())
    a, b = oriented(module(transposed=True), result)
    assert (a, b) == (left.T.tobytes(), right.T.tobytes())


def test_the_spool_gives_back_what_it_took(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with Spool.at(path) as spool:
        one, two = spool.append(b"first"), spool.append(b"second")
        assert (spool.read(two), spool.read(one)) == (b"second", b"first")
    with Spool.at(path, keep=True) as spool:
        assert spool.holds(one)
        assert not spool.holds(two._replace(length=7))
        assert not spool.holds(one._replace(checksum=1))
        assert spool.read(spool.append(b"third")) == b"third"
        assert spool.read(one) == b"first"
    with Spool.at(path) as spool:
        assert not spool.holds(one)


def test_a_spool_in_memory() -> None:
    with Spool.in_memory() as spool:
        assert spool.read(spool.append(b"here")) == b"here"
