"""Orders of rows in GGUF files: against formulas of their own, and as runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguf_models as models
from hostile_safetensors import check_message
from loragraft.errors import FormatError
from loragraft.ggml.family import families, family_for
from loragraft.ggml.row_order import Order, order_of, runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYER = "model.layers.3."
LINEAR = {
    "model_type": "qwen3_5_moe_text",
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 5,
}
VALUES = 30
SHAPES = {
    "in_proj_qkv": (16 + VALUES, 7),
    "in_proj_z": (VALUES, 7),
    "in_proj_a": (6, 7),
    "in_proj_b": (6, 7),
    "out_proj": (7, VALUES),
}


def in_order(weight: NDArray[np.int64], order: Order | None) -> NDArray[np.int64]:
    if order is None:
        return weight
    return weight[:, order.places] if order.columns else weight[order.places]


def numbered(shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.arange(shape[0] * shape[1]).reshape(shape)


def ordered(name: str, shape: tuple[int, int], config: dict[str, Any]) -> Order | None:
    return order_of(family_for(config), LAYER + name, shape, config)


@pytest.mark.parametrize("kind", ["llama", "mistral", "mixtral", "smollm3"])
@pytest.mark.parametrize(("heads", "shared", "width"), [(4, 2, 8), (3, 3, 2), (5, 1, 6)])
def test_rotary(kind: str, heads: int, shared: int, width: int) -> None:
    config = {"model_type": kind, "num_attention_heads": heads, "num_key_value_heads": shared}
    for name, count in (("q_proj", heads), ("k_proj", shared)):
        shape = (count * width, 3)
        weight = numbered(shape)
        order = ordered(f"self_attn.{name}", shape, config)
        # The formula as llama.cpp's converter has it, and the one of the tests' own writer.
        moved = weight.reshape(count, 2, width // 2, 3).transpose(0, 2, 1, 3).reshape(shape)
        np.testing.assert_array_equal(in_order(weight, order), moved)
        np.testing.assert_array_equal(models.rotary(weight, count), moved)
        assert order is not None
        np.testing.assert_array_equal(moved[order.inverse], weight)
    for name in ("self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj"):
        assert ordered(name, (heads * width, 3), config) is None


def test_rotary_without_a_number_of_shared_heads() -> None:
    config = {"model_type": "llama", "num_attention_heads": 4}
    weight = numbered((16, 2))
    order = ordered("self_attn.k_proj", (16, 2), config)
    np.testing.assert_array_equal(in_order(weight, order), models.rotary(weight, 4))


@pytest.mark.parametrize("name", SHAPES)
def test_tiled(name: str) -> None:
    shape = SHAPES[name]
    weight = numbered(shape)
    order = ordered(f"linear_attn.{name}", shape, LINEAR)
    assert order is not None
    assert order.columns == (name == "out_proj")
    front = 16 if name == "in_proj_qkv" else 0
    rows = weight.T if order.columns else weight
    tail = rows[front:]
    parts = tail.reshape(2, 3, len(tail) // 6, -1).transpose(1, 0, 2, 3).reshape(tail.shape)
    moved = np.concatenate([rows[:front], parts])
    expected = moved.T if order.columns else moved
    np.testing.assert_array_equal(in_order(weight, order), expected)
    found = models.arranged(f"{LAYER}linear_attn.{name}.weight", weight, LINEAR)
    np.testing.assert_array_equal(found, expected)


def test_as_many_values_as_keys_lie_as_they_are() -> None:
    config = LINEAR | {"linear_num_value_heads": 2, "linear_value_head_dim": 15}
    for name in ("in_proj_qkv", "in_proj_z", "out_proj"):
        assert ordered(f"linear_attn.{name}", SHAPES[name], config) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": value}
        for value in (None, 0, -4, "4", 4.0, True, [4], 3, 2**40)
    ],
    ids=str,
)  # fmt: skip
def test_heads_that_do_not_fit(changes: dict[str, Any]) -> None:
    config = {"model_type": "llama", **changes}
    with pytest.raises(FormatError) as caught:
        ordered("self_attn.q_proj", (16, 2), config)
    check_message(str(caught.value), "q_proj")


@pytest.mark.parametrize("key", sorted(set(LINEAR) - {"model_type"}))
@pytest.mark.parametrize("value", [None, 0, 7, "2", 2**40], ids=str)
def test_linear_heads_that_do_not_fit(key: str, value: Any) -> None:
    names = {"linear_key_head_dim": "in_proj_qkv"}
    name = names.get(key, "out_proj")
    with pytest.raises(FormatError) as caught:
        ordered(f"linear_attn.{name}", SHAPES[name], LINEAR | {key: value})
    check_message(str(caught.value), name)


def test_every_order_of_a_family_is_known() -> None:
    kinds = {kind for one in families() for kind in one.orders.values()}
    assert kinds == {
        "rotary query", "rotary key", "tiled values behind keys", "tiled values", "tiled heads",
        "columns of tiled values",
    }  # fmt: skip


def spread(found: list[tuple[int, int, int]]) -> list[int]:
    return [first + i * step for first, count, step in found for i in range(count)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40))
def test_runs_say_the_same(index: list[int]) -> None:
    found = runs(np.array(index, np.int64))
    assert spread(found) == index
    assert all(count > 1 or step == 1 for _, count, step in found)


def test_runs_of_orders_are_few() -> None:
    config = {"model_type": "llama", "num_attention_heads": 4}
    order = ordered("self_attn.q_proj", (64, 2), config)
    assert order is not None
    assert runs(order.inverse) == [(16 * head + half, 8, 2) for head in range(4) for half in (0, 1)]
    assert runs(np.arange(5)) == [(0, 5, 1)]
    assert runs(np.array([7])) == [(7, 1, 1)]
    assert runs(np.array([], np.int64)) == []
