"""Which linear layers the options choose, and the reason for every other tensor."""

from __future__ import annotations

import pytest

from loragraft.architecture import (
    Inventory,
    LinearModule,
    Role,
    Selection,
    parse_selection,
    select,
)
from loragraft.architecture.address import Address
from loragraft.errors import MismatchError, NothingToAdaptError, UsageError

KINDS = {
    "self_attn.q_proj": Role.ATTENTION,
    "self_attn.o_proj": Role.ATTENTION,
    "mlp.up_proj": Role.MLP,
    "mlp.down_proj": Role.MLP,
    "mlp.gate": Role.ROUTER,
    "mlp.experts.0.up_proj": Role.EXPERTS,
}
OTHERS = {
    "model.norm.weight": "norm",
    "model.layers.0.mlp.experts.gate_up_proj": "stacked experts",
}


def linear(name: str, role: Role, layer: int | None, tensor: str | None = None) -> LinearModule:
    kind = name.rpartition(".")[2]
    tensors = (tensor or f"{name}.weight",)
    return LinearModule(name, kind, role, layer, (4, 4), False, tensors, (), 0, Address(name))


INVENTORY = Inventory(
    (
        *(
            linear(f"model.layers.{layer}.{path}", role, layer)
            for layer in range(12)
            for path, role in KINDS.items()
        ),
        linear("model.projector", Role.OTHER, None),
        linear("lm_head", Role.HEAD, None, tensor="embed_out.weight"),
    ),
    OTHERS,
)
DENSE = Inventory(
    tuple(m for m in INVENTORY.linears if m.role in {Role.ATTENTION, Role.MLP, Role.HEAD}),
    {"model.norm.weight": "norm"},
)


def choose(
    targets: str,
    exclude: str | None = None,
    layers: str | None = None,
    *,
    experts: bool = True,
    inventory: Inventory = INVENTORY,
) -> tuple[set[str], dict[str, str]]:
    """Return the paths chosen, of layer 3 or outside the blocks, and what is left out."""
    selection = parse_selection(targets, exclude, layers, experts=experts)
    chosen, left_out = select(inventory, selection)
    tensors = [module.tensor for module in chosen]
    assert sorted([*tensors, *left_out]) == sorted(
        [*(module.tensor for module in inventory.linears), *inventory.others]
    )
    order = [module.tensor for module in inventory.linears]
    assert tensors == sorted(tensors, key=order.index)
    here = {m.name.removeprefix("model.layers.3.") for m in chosen if m.layer in {3, None}}
    return here, left_out


DENSE_PATHS = {"self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"}
EXPERT = "mlp.experts.0.up_proj"


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all-linear", {*DENSE_PATHS, EXPERT, "model.projector"}),
        ("attention", {"self_attn.q_proj", "self_attn.o_proj"}),
        ("mlp", {"mlp.up_proj", "mlp.down_proj"}),
        ("experts", {EXPERT}),
        ("attention,mlp", DENSE_PATHS),
        ("q_proj, o_proj", {"self_attn.q_proj", "self_attn.o_proj"}),
        ("up_proj", {"mlp.up_proj", EXPERT}),
        ("mlp.up_proj", {"mlp.up_proj"}),
        ("lm_head", {"lm_head"}),
        ("embed_out", {"lm_head"}),
        ("all-linear,lm_head", {*DENSE_PATHS, EXPERT, "model.projector", "lm_head"}),
        ("gate", {"mlp.gate"}),
        ("model.layers.3.mlp.up_proj", {"mlp.up_proj"}),
        (r"re:layers\.3\.self_attn", {"self_attn.q_proj", "self_attn.o_proj"}),
        (r"re:(q|o)_proj$", {"self_attn.q_proj", "self_attn.o_proj"}),
        (r"re:q_pro{1,2}j", {"self_attn.q_proj"}),
        ("re:lm_head", {"lm_head"}),
    ],
)
def test_targets(targets: str, expected: set[str]) -> None:
    assert choose(targets)[0] == expected


def test_reasons() -> None:
    chosen, left_out = choose("all-linear", "o_proj", "0-3", experts=False)
    assert chosen == {"self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"}
    assert left_out["embed_out.weight"] == ("head: not part of all-linear, name it to adapt it")
    assert left_out["model.layers.3.mlp.gate.weight"].startswith("router: not part of all-linear")
    assert left_out["model.layers.3.self_attn.o_proj.weight"] == "excluded"
    assert left_out["model.layers.4.mlp.up_proj.weight"] == "outside the chosen layers"
    assert left_out["model.projector.weight"] == "outside the chosen layers"
    assert left_out["model.layers.0.mlp.experts.0.up_proj.weight"] == "experts are skipped"
    assert left_out["model.layers.0.mlp.experts.gate_up_proj"] == "experts are skipped"
    assert left_out["model.norm.weight"] == "norm"
    assert (
        choose("q_proj")[1]["model.layers.3.mlp.up_proj.weight"] == "not among the target modules"
    )
    assert choose("q_proj")[1]["model.layers.0.mlp.experts.gate_up_proj"] == "stacked experts"


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("0-11,3", set(range(12))),
        ("0-2,10", {0, 1, 2, 10}),
        (" 4 ", {4}),
        ("4 - 6, 8", {4, 5, 6, 8}),
        ("11-11", {11}),
    ],
)
def test_layers(layers: str, expected: set[int]) -> None:
    selection = parse_selection("q_proj", None, layers)
    chosen, _ = select(INVENTORY, selection)
    assert selection.layers == frozenset(expected)
    assert {module.layer for module in chosen} == expected


@pytest.mark.parametrize("layers", ["", "a", "1-", "-3", "3-1", "1,,2", "1.5", "0-9999999", "٣"])
def test_layers_that_cannot_be_read(layers: str) -> None:
    with pytest.raises(UsageError, match="--layers"):
        parse_selection("all-linear", None, layers)


@pytest.mark.parametrize("text", ["", " ", ",", "q_proj,", "q proj", "*_proj", "re:", "re:(", ".q"])
def test_entries_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="--target-modules"):
        parse_selection(text, None, None)
    with pytest.raises(UsageError, match="--exclude"):
        parse_selection("all-linear", text, None)


def test_defaults() -> None:
    assert parse_selection("all-linear", None, None) == Selection()
    assert parse_selection("q_proj,q_proj,k_proj", None, None).target_modules == (
        "q_proj",
        "k_proj",
    )


@pytest.mark.parametrize("entry", ["w_proj", "re:xyz", "proj", "experts", "_proj"])
def test_an_entry_that_names_nothing_lists_the_kinds(entry: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(entry, inventory=DENSE)
    assert str(caught.value).endswith("there are down_proj, lm_head, o_proj, q_proj, up_proj")
    assert entry in str(caught.value)


def test_an_exclusion_that_names_nothing_is_a_slip_unless_it_is_a_role() -> None:
    with pytest.raises(UsageError, match="--exclude: 'w_proj' matches no module"):
        choose("all-linear", "w_proj")
    assert choose("all-linear", "experts", inventory=DENSE)[0] == DENSE_PATHS


def test_experts_of_a_family_that_nobody_described() -> None:
    stacked = Inventory(DENSE.linears, OTHERS, unknown_experts="add it to a family file")
    for wanted in ("experts", "all-linear", "q_proj,experts"):
        with pytest.raises(MismatchError, match="add it to a family file"):
            choose(wanted, inventory=stacked)
    assert choose("all-linear", "experts", inventory=stacked)[0] == DENSE_PATHS
    assert choose("attention", inventory=stacked)[0]
    selection = parse_selection("all-linear", None, None, experts=False)
    roles = {linear.role for linear in select(stacked, selection)[0]}
    assert roles == {Role.ATTENTION, Role.MLP}


def test_a_layer_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="no layer 12; the model's are 0 to 11"):
        choose("all-linear", layers="3-14")


@pytest.mark.parametrize(
    ("targets", "exclude", "layers", "experts"),
    [
        ("q_proj", "q_proj", None, True),
        ("lm_head", None, "0", True),
        ("experts", None, None, False),
        ("model.layers.3.mlp.up_proj", None, "4", True),
    ],
)
def test_options_that_leave_nothing(
    targets: str, exclude: str | None, layers: str | None, experts: bool
) -> None:
    with pytest.raises(NothingToAdaptError, match="no linear layer is left to adapt: --target"):
        choose(targets, exclude, layers, experts=experts)


def test_a_checkpoint_without_linear_layers() -> None:
    with pytest.raises(NothingToAdaptError, match="the model has no linear layers"):
        choose("all-linear", inventory=Inventory((), OTHERS))
