"""target_modules is exact under PEFT's own matching rule."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists

from loragraft.adapter.target_modules import MAX_ENTRIES, exact_regex, target_modules

if TYPE_CHECKING:
    from collections.abc import Collection

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


def llama_names(layers: int, prefix: str = "model") -> list[str]:
    return [
        f"{prefix}.layers.{layer}.{name}"
        for layer in range(layers)
        for name in [f"self_attn.{k}" for k in ATTENTION] + [f"mlp.{k}" for k in MLP]
    ]


def targeted(targets: list[str] | str, names: Collection[str]) -> set[str]:
    """Return what PEFT would put an adapter on, containers included."""
    known = set(names)
    for name in names:
        parts = name.split(".")
        known |= {".".join(parts[:stop]) for stop in range(1, len(parts))}
    config = SimpleNamespace(target_modules=set(targets) if isinstance(targets, list) else targets)
    return {name for name in known if check_target_module_exists(config, name)}


def check(adapted: Collection[str], names: Collection[str]) -> list[str] | str:
    targets = target_modules(adapted, names)
    assert targeted(targets, {*names, *adapted}) == set(adapted)
    assert target_modules(sorted(adapted, reverse=True), sorted(names)) == targets
    return targets


def test_everything_gives_short_suffixes() -> None:
    names = llama_names(3)
    assert check(names, [*names, "lm_head"]) == [
        "down_proj", "gate_proj", "up_proj", "k_proj", "o_proj", "q_proj", "v_proj"
    ]  # fmt: skip


def test_one_layer_gives_full_names_in_natural_order() -> None:
    names = llama_names(12)
    adapted = [name for name in names if ".2.self_attn.q" in name or ".10.self_attn.q" in name]
    assert check(adapted, names) == [
        "model.layers.2.self_attn.q_proj",
        "model.layers.10.self_attn.q_proj",
    ]


def test_a_suffix_lengthens_until_it_tells_siblings_apart() -> None:
    names = [f"h.{i}.{part}.c_proj" for i in range(2) for part in ("attn", "mlp")]
    assert check([n for n in names if "attn" in n], names) == ["attn.c_proj"]


def test_one_module_missing_names_only_its_kind_in_full() -> None:
    names = llama_names(2)
    adapted = [name for name in names if name != "model.layers.1.mlp.up_proj"]
    targets = check(adapted, names)
    assert "model.layers.0.mlp.up_proj" in targets
    assert "q_proj" in targets


def test_names_that_are_no_linear_layers_are_avoided_too() -> None:
    names = ["layers.0.attn.dense", "layers.0.dense.mlp"]
    assert check(["layers.0.attn.dense"], names) == ["attn.dense"]


def test_a_name_that_ends_another_becomes_a_regex() -> None:
    names = ["layers.0.q_proj", "vision.layers.0.q_proj"]
    assert check(names[:1], names) == r"layers\.0\.q_proj"


def test_a_module_at_the_root() -> None:
    assert check(["lm_head"], [*llama_names(1), "lm_head"]) == ["lm_head"]


def test_a_long_list_becomes_a_compact_regex() -> None:
    names = llama_names(172)
    adapted = [name for name in names if int(name.split(".")[2]) % 2 == 0]
    assert len(adapted) == 602
    targets = check(adapted, names)
    assert isinstance(targets, str)
    assert len(targets) < 600


@pytest.mark.parametrize("more", [0, 1])
def test_the_longest_list(more: int) -> None:
    names = [f"layers.{i}.q_proj" for i in range(MAX_ENTRIES + 2)]
    targets = check(names[: MAX_ENTRIES + more], names)
    assert isinstance(targets, str) == bool(more)


def test_regexes_escape_what_names_contain() -> None:
    names = ["a.b+c.(d", "a.bxc.(d"]
    assert re.fullmatch(exact_regex(names[:1]), names[0])
    assert not re.fullmatch(exact_regex(names[:1]), names[1])


PARTS = st.sampled_from(["a", "b", "ab", "q", "layers", "0", "1", "10", "x-y"])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map(".".join)


@given(st.sets(NAMES, min_size=1, max_size=12), st.sets(NAMES, max_size=12))
@example({"a", "a.b"}, {"a.b.a"})
def test_exact_for_any_names(adapted: set[str], others: set[str]) -> None:
    check(adapted, adapted | others)


@given(st.sets(NAMES, min_size=1, max_size=12), st.sets(NAMES, max_size=12))
def test_the_regex_is_exact_for_any_names(adapted: set[str], others: set[str]) -> None:
    assert targeted(exact_regex(sorted(adapted)), adapted | others) == adapted
