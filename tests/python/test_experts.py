"""Experts found among names and shapes alone: what is refused, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loragraft.architecture import family_of
from loragraft.architecture.address import Address
from loragraft.architecture.expert_layout import Projection
from loragraft.architecture.expert_modules import expert_modules
from loragraft.architecture.experts import find_experts
from loragraft.architecture.families import parse_family
from loragraft.architecture.unloaded import why_unloaded
from loragraft.errors import FormatError, MismatchError
from loragraft.tensor_entry import TensorEntry
from loragraft.weights.source import Interleaved, Microscaled, Plain, Scaled, Stacked
from loragraft.weights.stored_weight import StoredWeight

if TYPE_CHECKING:
    from loragraft.architecture.expert_group import ExpertGroup

WIDTH, UNITS, EXPERTS = 16, 12, 4
MIXTRAL = "model.layers.0.block_sparse_moe.experts"
QWEN = "model.layers.0.mlp.experts"


def entry(name: str, *shape: int, dtype: str = "BF16") -> TensorEntry:
    return TensorEntry(name, dtype, shape, Path("x"), 0, 0)


def named(*entries: TensorEntry) -> dict[str, TensorEntry]:
    return {e.name: e for e in entries}


def mixtral(experts: int = EXPERTS) -> dict[str, TensorEntry]:
    each = {"w1": (UNITS, WIDTH), "w2": (WIDTH, UNITS), "w3": (UNITS, WIDTH)}
    names = [(f"{MIXTRAL}.{e}.{w}.weight", s) for e in range(experts) for w, s in each.items()]
    return named(*(entry(name, *shape) for name, shape in names))


def stacked(
    gate_up: tuple[int, int] = (2 * UNITS, WIDTH), down: tuple[int, int] = (WIDTH, UNITS)
) -> dict[str, TensorEntry]:
    return named(
        entry(f"{QWEN}.gate_up_proj", EXPERTS, *gate_up),
        entry(f"{QWEN}.down_proj", EXPERTS, *down),
    )


def find(tensors: dict[str, Any], model_type: str | None, **config: Any) -> tuple[ExpertGroup, ...]:
    whole = None if model_type is None else {"model_type": model_type} | config
    return find_experts(tensors, family_of(whole), whole)


def test_single_experts_become_the_parameters_of_the_model_in_memory() -> None:
    (group,) = find(mixtral(), "mixtral", num_local_experts=EXPERTS)
    assert (group.module, group.single) == (QWEN, MIXTRAL)
    gate_up, down = expert_modules(group, "peft")
    assert gate_up.name == f"{QWEN}.gate_up_proj"
    assert gate_up.kind == "experts.gate_up_proj"
    assert (gate_up.layer, gate_up.shape, gate_up.experts) == (0, (2 * UNITS, WIDTH), EXPERTS)
    assert gate_up.address == Address(QWEN, "gate_up_proj", 0)
    assert down.address == Address(QWEN, "down_proj", 1)
    assert all(isinstance(matrix, Stacked) for matrix in gate_up.matrices)
    assert set(gate_up.tensors) | set(down.tensors) == set(mixtral())
    assert [m.address.swapped for m in expert_modules(group, "peft-legacy")] == [True, True]
    single = expert_modules(group, "per-expert")
    assert [m.name for m in single[:3]] == [f"{MIXTRAL}.0.{w}" for w in ("w1", "w3", "w2")]
    assert [m.kind for m in single[:3]] == [f"experts.{k}_proj" for k in ("gate", "up", "down")]
    assert len(single) == 3 * EXPERTS


@pytest.mark.parametrize(
    ("model_type", "swapped", "legacy"),
    [("qwen3_moe", False, True), ("gpt_oss", False, False), ("llama4_text", True, False)],
)
def test_which_side_of_a_parameter_lora_a_belongs_to(
    model_type: str, swapped: bool, legacy: bool
) -> None:
    (layout,) = family_of({"model_type": model_type}).experts
    assert layout.swapped(legacy=False) == swapped
    assert layout.swapped(legacy=True) == legacy


@pytest.mark.parametrize("turned", [False, True])
def test_a_family_that_is_stored_either_way_round_is_told_by_its_shapes(turned: bool) -> None:
    plain = stacked()
    files = stacked((WIDTH, 2 * UNITS), (UNITS, WIDTH)) if turned else plain
    (group,) = find(files, "qwen3_vl_moe")
    assert [m.shape for m in expert_modules(group, "peft")] == [(24, 16), (16, 12)]
    assert group.stored[Projection.DOWN][0].by_columns == turned


def test_microscaled_experts_are_taken_apart_by_rows() -> None:
    width = 32
    blocks = {n: entry(f"{QWEN}.{n}_blocks", 1, 1, 1, 16, dtype="U8") for n in ("gate_up", "down")}
    rows = {"gate_up_proj": 2 * UNITS, "down_proj": width}
    columns = {"gate_up_proj": width, "down_proj": UNITS}
    tensors = {}
    for name, count in rows.items():
        held = blocks[name.removesuffix("_proj")]
        matrices = tuple(
            Microscaled(held, held, count, columns[name], first_row=e * count)
            for e in range(EXPERTS)
        )
        shape = (EXPERTS, count, columns[name])
        tensors[f"{QWEN}.{name}"] = StoredWeight(
            f"{QWEN}.{name}", "MXFP4", shape, matrices, (held.name, "scales"), out_in=True
        )
    (group,) = find(tensors, "gpt_oss", num_local_experts=EXPERTS)
    gate_up, down = expert_modules(group, "peft")
    assert gate_up.matrices == tensors[f"{QWEN}.gate_up_proj"].matrices
    assert (gate_up.shape, down.shape) == ((2 * UNITS, width), (width, UNITS))
    assert gate_up.tensors == (f"{QWEN}.gate_up_blocks", "scales")
    gate, up = (group.matrices(kind)[1] for kind in (Projection.GATE, Projection.UP))
    assert isinstance(gate, Microscaled)
    assert isinstance(up, Microscaled)
    assert (gate.rows, gate.first_row, gate.step) == (UNITS, 2 * UNITS, 2)
    assert (up.rows, up.first_row, up.step) == (UNITS, 2 * UNITS + 1, 2)


def test_gate_and_up_keep_their_scales_where_blocks_allow() -> None:
    def both(down: int) -> StoredWeight:
        name = f"{QWEN}.gate_up_proj"
        codes = Plain(entry(name, EXPERTS, 24, WIDTH, dtype="F8_E4M3"), 24, WIDTH, 0, WIDTH, 1)
        scales = Plain(entry(f"{name}_scale_inv", 24 // down, 1), 24 // down, 1, 0, 1, 1)
        matrix = Scaled(codes, scales, (down, WIDTH))
        shape = (EXPERTS, 24, WIDTH)
        return StoredWeight(name, "F8_E4M3", shape, (matrix,) * EXPERTS, (name, "scales"))

    for down, expected in ((6, (6, 2)), (1, (1, 12)), (24, (12, 1))):
        tensors = {**stacked(), f"{QWEN}.gate_up_proj": both(down)}
        (group,) = find(tensors, "qwen3_moe")
        up = group.matrices(Projection.UP)[0]
        assert isinstance(up, Scaled)
        assert (up.block[0], up.scales.rows) == expected
        assert up.codes.first == UNITS * WIDTH
    tensors = {**stacked(), f"{QWEN}.gate_up_proj": both(8)}
    (group,) = find(tensors, "qwen3_moe")
    with pytest.raises(MismatchError, match=r"cannot be taken apart \(a scale covers 8 rows\)"):
        expert_modules(group, "per-expert")
    assert len(expert_modules(group, "peft")) == 2


def without(tensors: dict[str, TensorEntry], name: str) -> dict[str, TensorEntry]:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            without(mixtral(), f"{MIXTRAL}.2.w3.weight"),
            f"tensor '{MIXTRAL}.2.w3.weight' is missing: the block has experts 0 to 3",
        ),
        (
            without(mixtral(), f"{MIXTRAL}.3.w1.weight"),
            f"tensor '{MIXTRAL}.3.w1.weight' is missing",
        ),
        (
            {n: t for n, t in mixtral().items() if ".w2." not in n},
            f"tensor '{MIXTRAL}.0.w2.weight' is missing",
        ),
        (mixtral(3), "has 3 experts, expected 4, as config.json says"),
        (
            mixtral() | named(entry(f"{MIXTRAL}.1.w1.weight", UNITS, WIDTH + 1)),
            f"tensor '{MIXTRAL}.1.w1.weight': got 12 x 17 for gate of expert 1, as [out, in];"
            f" expected 12 x 16 beside '{MIXTRAL}.0.w2.weight', which is 16 x 12",
        ),
        (
            mixtral() | named(entry(f"{MIXTRAL}.1.w1.weight", UNITS)),
            f"tensor '{MIXTRAL}.1.w1.weight': got shape [12], expected 2 dimensions",
        ),
        (mixtral() | stacked(), f"the experts of {QWEN} are stored twice"),
        (
            without(stacked(), f"{QWEN}.down_proj"),
            f"tensor '{QWEN}.down_proj' is missing: expected it beside '{QWEN}.gate_up_proj'",
        ),
        (stacked((WIDTH, 2 * UNITS), (UNITS, WIDTH)), "got 16 x 24 for gate_up of expert 0"),
        (
            stacked() | named(entry(f"{QWEN}.gate_up_proj", EXPERTS + 1, 2 * UNITS, WIDTH)),
            "got 5 experts, expected 4 as in",
        ),
    ],
)
def test_experts_that_do_not_fit_are_named(tensors: dict[str, TensorEntry], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        find(tensors, "mixtral", num_local_experts=EXPERTS)
    assert message in str(caught.value)


def test_blocks_that_are_not_loaded_are_left_out() -> None:
    extra = {n.replace("layers.0", "layers.2"): t for n, t in mixtral().items()}
    family = family_of({"model_type": "mixtral"})
    config = {"model_type": "mixtral", "num_hidden_layers": 2}
    assert len(find_experts(mixtral() | extra, family, config)) == 1
    assert len(find_experts(mixtral() | extra, family, None)) == 2
    why = why_unloaded("model.layers.2.mlp.up_proj.weight", family, config)
    assert why == "not loaded by transformers: config.json gives the model 2 blocks"
    nested = {"text_config": {"num_hidden_layers": 2}}
    assert why_unloaded("model.language_model.layers.1.x.weight", family, nested) is None
    assert why_unloaded("model.language_model.layers.2.x.weight", family, nested) is not None
    assert why_unloaded("model.vision_tower.layers.9.x.weight", family, nested) is None
    qwen = family_of({"model_type": "qwen3_next"})
    assert why_unloaded("mtp.layers.0.mlp.gate.weight", qwen, None) == "not loaded by transformers"


def test_stacked_experts_of_an_unknown_family_need_proof() -> None:
    sizes = {"hidden_size": WIDTH, "moe_intermediate_size": UNITS, "intermediate_size": 99}
    (group,) = find(stacked(), "unheard_of", **sizes)
    gate_up, down = expert_modules(group, "peft")
    assert gate_up.shape == (2 * UNITS, WIDTH)
    assert gate_up.address == Address(QWEN, "gate_up_proj", 0)
    assert down.address == Address(QWEN, "down_proj", 1)
    with pytest.raises(MismatchError, match="which of its rows are the gate's is not known"):
        expert_modules(group, "per-expert")


@pytest.mark.parametrize(
    ("tensors", "sizes"),
    [
        (stacked(), {}),
        (stacked(), {"hidden_size": WIDTH}),
        (stacked((16, 24), (12, 16)), {"hidden_size": 16, "moe_intermediate_size": 12}),
        (stacked((32, 32), (32, 16)), {"hidden_size": 32, "moe_intermediate_size": 16}),
        (stacked((32, 16), (16, 16)), {"hidden_size": 16, "moe_intermediate_size": 16}),
        (named(entry(f"{QWEN}.w1", 4, 12, 16)), {"hidden_size": 16, "intermediate_size": 12}),
        (named(entry(f"{QWEN}.down_proj", 4, 16, 12)), {"hidden_size": 16, "d_ff": 12}),
    ],
)
def test_what_is_not_proven_is_refused(
    tensors: dict[str, TensorEntry], sizes: dict[str, int]
) -> None:
    with pytest.raises(MismatchError, match=r"docs/adding-a-family\.md"):
        find(tensors, "unheard_of", **sizes)


def test_single_experts_of_an_unknown_family_are_plain_layers() -> None:
    assert find(mixtral(), "unheard_of") == ()
    assert find(mixtral(), None) == ()
    assert find({}, "mixtral") == ()


LAYOUT = {"module": "mlp.experts", "parameters": {"gate_up_proj": "gate_up", "down_proj": "down"}}


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ("x", "experts[0]: got str, expected a JSON object"),
        ([LAYOUT, 3], "experts[1]: got int, expected a JSON object"),
        ({}, "key 'module' must be a non-empty string, got None"),
        ({"module": "m"}, "key 'parameters' must be an object of names with gate, up, down"),
        (LAYOUT | {"parameters": {"a": "gate"}}, "must be gate_up and down, or gate, up and down"),
        (LAYOUT | {"parameters": {"a": "up", "b": "down", "c": "up"}}, "or up and down, once"),
        (LAYOUT | {"orientation": "either"}, "'orientation' must be one of out,in; in,out, got"),
        (LAYOUT | {"interleaved": 1}, "key 'interleaved' must be true or false, got 1"),
        (LAYOUT | {"fused": []}, "unknown key 'fused', expected count, flat"),
        (LAYOUT | {"per_expert": {"module": "m", "up": "w"}}, "must be an object with module"),
        (LAYOUT | {"per_expert": {"up": "w"}}, "per_expert: key 'module' must be"),
        (LAYOUT | {"stacked": {}}, "key 'stacked' must be a list of objects"),
        (LAYOUT | {"stacked": [{}]}, "stacked[0]: key 'tensors' must be an object of names"),
        (LAYOUT | {"count": "n"}, "key 'count' must be a list of keys of config.json"),
        (LAYOUT | {"share": [2, 2]}, "key 'share' must be two integers"),
        (LAYOUT | {"share": [0]}, "key 'share' must be two integers"),
    ],
)
def test_layouts_are_checked(experts: object, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_family({"name": "x", "experts": experts}, "some.json")
    assert str(caught.value).startswith("some.json: experts[")
    assert message in str(caught.value)


def test_unloaded_is_checked() -> None:
    with pytest.raises(FormatError, match=r"some\.json: unloaded '\(' is no regex"):
        parse_family({"name": "x", "unloaded": ["("]}, "some.json")


def test_memory_order_is_kept_where_files_have_another() -> None:
    """Inkling's files have gate and up in turn, its parameter one above the other."""
    files = named(
        entry("model.llm.layers.0.mlp.experts.w13_weight", EXPERTS, 2 * UNITS, WIDTH),
        entry("model.llm.layers.0.mlp.experts.w2_weight", EXPERTS, WIDTH, UNITS),
    )
    (group,) = find(files, "inkling2_text")
    matrix = group.matrices(Projection.GATE_UP)[0]
    assert isinstance(matrix, Stacked)
    assert [p.row_stride for p in matrix.parts if isinstance(p, Plain)] == [2 * WIDTH] * 2
    assert isinstance(mixed().matrices(Projection.GATE_UP)[0], Interleaved)


def mixed() -> ExpertGroup:
    """Return experts of a family that has gate and up in turn in memory, stored one by one."""
    experts = LAYOUT | {
        "interleaved": True,
        "per_expert": {"module": "mlp.experts", "gate": "g", "up": "u", "down": "d"},
    }
    family = parse_family({"name": "x", "experts": experts}, "some.json")
    shapes = {"g": (UNITS, WIDTH), "u": (UNITS, WIDTH), "d": (WIDTH, UNITS)}
    (group,) = find_experts(
        named(*(entry(f"mlp.experts.0.{n}.weight", *s) for n, s in shapes.items())), family, None
    )
    return group
