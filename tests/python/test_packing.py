"""Packing of experts' factors: PEFT's layout, by hand and as PEFT itself unpacks it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from loragraft.adapter.packing import Packing, pack, unpack
from loragraft.errors import FormatError

Factors = list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def random_factors(experts: int, out: int, into: int, ranks: list[int], seed: int = 0) -> Factors:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.standard_normal((out, ranks[e % len(ranks)])).astype(np.float32),
            rng.standard_normal((ranks[e % len(ranks)], into)).astype(np.float32),
        )
        for e in range(experts)
    ]


def test_shapes_by_hand() -> None:
    """E = 2, H = 8, I = 3, r = 2: gate_up_proj is [2I, H] = (6, 8), down_proj [H, I] = (8, 3)."""
    a, b = pack(random_factors(2, 6, 8, [2]))
    assert (a.shape, b.shape) == ((4, 8), (6, 4))
    a, b = pack(random_factors(2, 8, 3, [2]))
    assert (a.shape, b.shape) == ((4, 3), (8, 4))
    a, b = pack(random_factors(2, 6, 8, [2]), swapped=True)
    assert (a.shape, b.shape) == ((4, 6), (8, 4))


def test_places_by_hand() -> None:
    """Row e*r + k of A and column k*E + e of B are direction k of expert e."""
    factors = [
        (np.array([[10 * e + k for k in range(2)]]), np.array([[10 * e + k] for k in range(2)]))
        for e in range(3)
    ]
    a, b = pack(factors)
    assert a.ravel().tolist() == [0, 1, 10, 11, 20, 21]
    assert b.ravel().tolist() == [0, 10, 20, 1, 11, 21]


@pytest.mark.parametrize("swapped", [False, True])
def test_smaller_ranks_are_filled_up_with_zeros(swapped: bool) -> None:
    factors = random_factors(3, 5, 4, [3, 1, 2])
    a, b = pack(factors, swapped=swapped)
    for (left, right), (full_left, full_right) in zip(
        factors, unpack(a, b, 3, swapped=swapped), strict=True
    ):
        rank = right.shape[0]
        assert np.array_equal(full_left[:, :rank], left)
        assert np.array_equal(full_right[:rank], right)
        assert not full_left[:, rank:].any()
        assert not full_right[rank:].any()


def test_bit_patterns_are_moved_as_they_are() -> None:
    packing = Packing(2, 2, (3, 4), np.uint16)
    left = np.arange(6, dtype=np.uint16).reshape(3, 2) + 0x7F80
    right = np.arange(8, dtype=np.uint16).reshape(2, 4) + 0xFF00
    packing.put(1, left, right)
    (no_left, no_right), (found_left, found_right) = unpack(packing.lora_a, packing.lora_b, 2)
    assert packing.lora_a.dtype == packing.lora_b.dtype == np.uint16
    assert np.array_equal(found_left, left)
    assert np.array_equal(found_right, right)
    assert not no_left.any()
    assert not no_right.any()


@pytest.mark.parametrize("expert", [-1, 2])
def test_no_such_expert(expert: int) -> None:
    packing = Packing(2, 1, (3, 4), np.float32)
    with pytest.raises(ValueError, match="of 2"):
        packing.put(expert, np.ones((3, 1), np.float32), np.ones((1, 4), np.float32))


def test_rank_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="rank 2 in 1"):
        Packing(2, 1, (3, 4), np.float32).put(
            0, np.ones((3, 2), np.float32), np.ones((2, 4), np.float32)
        )


@pytest.mark.parametrize(("rows", "columns", "experts"), [(4, 4, 3), (4, 6, 2), (4, 4, 0)])
def test_matrices_that_hold_no_such_experts(rows: int, columns: int, experts: int) -> None:
    with pytest.raises(FormatError, match="do not hold the factors"):
        unpack(np.ones((rows, 5)), np.ones((7, columns)), experts)


class _Experts(torch.nn.Module):
    def __init__(self, shape: tuple[int, int, int], is_transposed: bool | None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(shape))
        if is_transposed is not None:
            self.is_transposed = is_transposed


class _Model(torch.nn.Module):
    def __init__(self, experts: _Experts) -> None:
        super().__init__()
        self.experts = experts


@pytest.mark.parametrize(
    ("in_out", "attribute", "swapped"),
    [(False, False, False), (True, True, False), (True, None, True)],
)
def test_peft_unpacks_what_was_packed(in_out: bool, attribute: bool | None, swapped: bool) -> None:
    """Every way in which a model can store [out, in] weights of three experts."""
    factors = random_factors(3, 6, 8, [2])
    shape = (3, 8, 6) if in_out else (3, 6, 8)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=[], target_parameters=["experts.weight"])
    model = get_peft_model(_Model(_Experts(shape, attribute)), config)  # type: ignore[arg-type]
    a, b = pack(factors, swapped=swapped)
    wrapper = model.base_model.model.experts
    wrapper.lora_A["default"].weight.data = torch.from_numpy(a)
    wrapper.lora_B["default"].weight.data = torch.from_numpy(b)
    delta = wrapper.get_delta_weight("default").detach().numpy()
    expected = np.stack([3.0 * (left @ right) for left, right in factors])
    np.testing.assert_allclose(
        delta.transpose(0, 2, 1) if in_out else delta, expected, rtol=1e-5, atol=1e-5
    )
