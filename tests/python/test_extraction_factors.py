"""Factors between kernels and file: turned where layers are stored ``[in, out]``, spooled."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from loragraft.extraction.factors import oriented
from loragraft.extraction.spool import Spool

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
        return SimpleNamespace(linear=SimpleNamespace(shape=out, transposed=transposed))

    assert oriented(module(transposed=False), result) == (right.tobytes(), left.tobytes())
    a, b = oriented(module(transposed=True), result)
    assert (a, b) == (left.T.tobytes(), right.T.tobytes())


@pytest.mark.parametrize("anonymous", [True, False])
def test_the_spool_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anonymous: bool
) -> None:
    real = os.open

    def without_tmpfile(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE and not anonymous:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", without_tmpfile)
    with Spool(tmp_path) as spool:
        one, two = spool.append(b"first"), spool.append(b"second")
        assert list(tmp_path.iterdir()) == []
        assert (spool.read(two), spool.read(one)) == (b"second", b"first")
