"""What is carried whole, decided from names and headers; no model is built."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import loragraft.adapter.whole_plan
from lora_files import write_checkpoint
from loragraft.adapter.contents import whole_tensors
from loragraft.adapter.engines import engine_notes, engine_warnings
from loragraft.adapter.settings import Settings
from loragraft.adapter.tying import vocabulary_of
from loragraft.adapter.whole import Part, WholeKind, WholeModule, find_candidates
from loragraft.adapter.whole_plan import SavedTensor, SaveWhole, WholePlan, plan_whole, read_spans
from loragraft.architecture import take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError
from loragraft.tensor_bytes import TensorBytes
from loragraft.tensor_entry import TensorEntry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loragraft.adapter.whole import Candidates

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
Q = "model.layers.0.self_attn.q_proj"


def candidates(
    tmp_path: Path,
    base: Mapping[str, tuple[int, ...]],
    tuned: Mapping[str, tuple[int, ...]] | None = None,
    *,
    config: Mapping[str, Any] = LLAMA,
    tuned_config: Mapping[str, Any] | None = None,
    adapted: Sequence[str] = (Q,),
    dtype: Any = np.float32,
) -> Candidates:
    """Of two checkpoints whose tensors are zeros on one side and ones on the other."""
    sides = []
    for name, shapes, number, settings in (
        ("base", base, 0, config),
        ("tuned", tuned or base, 1, tuned_config or config),
    ):
        tensors = {key: np.full(shape, number, dtype) for key, shape in shapes.items()}
        write_checkpoint(tmp_path / name, tensors, config=settings)
        sides.append(open_checkpoint(tmp_path / name))
    inventory = take_inventory(sides[0])
    chosen = [linear for linear in inventory.linears if linear.name in adapted]
    return find_candidates(*sides, inventory, chosen)


def plan(found: Candidates, what: SaveWhole = SaveWhole.ALL) -> WholePlan:
    with TensorBytes() as reader:
        return plan_whole(found, what, (), reader)


QUERY = {f"{Q}.weight": (8, 8)}
EMBEDDING = {"model.embed_tokens.weight": (400, 8)}
HEAD = {"lm_head.weight": (400, 8)}


@pytest.mark.parametrize(
    ("config", "tensors", "tied", "head"),
    [
        ({}, HEAD, False, "lm_head"),
        ({"tie_word_embeddings": True}, HEAD, True, "lm_head"),
        ({"tie_word_embeddings": False}, {}, False, None),
        ({}, {}, True, ""),
        ({"architectures": ["LlamaModel"]}, HEAD, False, None),
        ({"architectures": ["LlamaForSequenceClassification"]}, {}, False, None),
    ],
)
def test_whether_head_and_embedding_are_one(
    config: dict[str, Any],
    tensors: dict[str, tuple[int, ...]],
    tied: bool,
    head: str | None,
    tmp_path: Path,
) -> None:
    weights = {name: np.zeros(shape) for name, shape in {**EMBEDDING, **tensors}.items()}
    write_checkpoint(tmp_path / "m", weights, config=LLAMA | config)
    found = vocabulary_of(open_checkpoint(tmp_path / "m"))
    assert found.tied is tied
    assert found.embedding is not None
    assert (None if found.head is None else found.head.path) == head


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5Model"]},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
    ],
)
def test_embeddings_that_may_be_shared_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    tensors = {"shared.weight": (400, 8), "encoder.layer_norm.weight": (8,), **QUERY}
    found = plan(candidates(tmp_path, tensors, config=config))
    assert found.refused == {
        "shared.weight": "it may share its weight with others, which no file tells"
    }
    assert set(found.saved) == {"encoder.layer_norm.weight"}


def test_embedding_tied_to_an_adapted_head_is_refused(tmp_path: Path) -> None:
    config = LLAMA | {"tie_word_embeddings": True}
    tensors = {**EMBEDDING, **HEAD, **QUERY}
    found = plan(candidates(tmp_path, tensors, config=config, adapted=(Q, "lm_head")))
    assert found.config == {}
    assert found.refused == {"model.embed_tokens.weight": "tied to lm_head, which has LoRA factors"}


def test_head_that_tuning_tied(tmp_path: Path) -> None:
    """The head of the base becomes the tuned embedding."""
    found = plan(
        candidates(
            tmp_path,
            {**EMBEDDING, **HEAD, **QUERY},
            {**EMBEDDING, **QUERY},
            config=LLAMA | {"tie_word_embeddings": False},
            tuned_config=LLAMA | {"tie_word_embeddings": True},
        )
    )
    assert found.refused == {}
    assert found.config == {"modules_to_save": ["lm_head", "model.embed_tokens"]}
    head = next(tensor for tensor in found.tensors if "lm_head" in tensor.key)
    assert head.source.name == "model.embed_tokens.weight"


def test_modules_on_one_side_and_in_formats_of_codes(tmp_path: Path) -> None:
    norm = {"model.norm.weight": (8,), "model.norm.bias": (8,)}
    only = {"model.other_norm.weight": (8,)}
    found = plan(
        candidates(tmp_path, {**QUERY, **norm}, {**QUERY, "model.norm.weight": (8,), **only})
    )
    assert found.tensors == ()
    assert found.refused == {
        "model.norm.weight": "bias of its module is only in BASE",
        "model.norm.bias": "bias of its module is only in BASE",
        "model.other_norm.weight": "only in TUNED",
    }


def test_parameters_that_no_adapter_can_carry(tmp_path: Path) -> None:
    odd = {f"{Q}.input_scale": (1,), "scale": (1,), "model.layers.0.self_attn.sinks": (2,)}
    found = plan(candidates(tmp_path, {**QUERY, **odd}))
    assert {name: why.split(",")[0] for name, why in found.refused.items()} == {
        f"{Q}.input_scale": "input_scale of a linear layer",
        "scale": "a parameter of the model itself",
        "model.layers.0.self_attn.sinks": "a parameter of model.layers.0.self_attn",
    }


def test_experts_and_what_is_not_loaded_stay_out(tmp_path: Path) -> None:
    config = {
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "num_hidden_layers": 1,
    }
    odd = {
        "model.layers.0.mlp.experts.strange_bias": (4, 8),
        "model.layers.1.input_layernorm.weight": (8,),
        "model.layers.0.input_layernorm.weight": (8,),
    }
    found = plan(candidates(tmp_path, {**QUERY, **odd}, config=config))
    assert found.config == {"modules_to_save": ["input_layernorm"]}
    assert len(found.tensors) == 1
    experts, unloaded = found.refused.values()
    assert experts == "experts are not saved whole"
    assert unloaded.startswith("not loaded by transformers")


def test_module_inside_another_is_carried_with_it(tmp_path: Path) -> None:
    inner = {"model.projector.shift": (8,), "model.projector.norm.weight": (8,)}
    found = candidates(tmp_path, {**QUERY, **inner})
    assert plan(found).config == {"modules_to_save": ["model.projector"]}
    assert {tensor.key for tensor in plan(found).tensors} == {
        f"base_model.model.{name}" for name in inner
    }
    assert plan(found, SaveWhole.NORMS).config == {"modules_to_save": ["model.projector.norm"]}


def test_entries_hit_no_other_module(tmp_path: Path) -> None:
    """PEFT compares the ends of paths as text: ``norm`` also hits ``layers.0.q_norm``."""
    config = {"model_type": "llama", "architectures": ["LlamaModel"]}
    bare = {"layers.0.q_proj.weight": (8, 8), "norm.weight": (8,)}
    found = candidates(
        tmp_path, {**bare, "layers.0.q_norm.weight": (8,)}, config=config, adapted=()
    )
    # What has not changed itself is written because PEFT asks for it.
    with TensorBytes() as reader:
        both = plan_whole(found, SaveWhole.NORMS, {"layers.0.q_norm.weight"}, reader)
    assert both.config["modules_to_save"] == ["q_norm", "norm"]
    assert set(both.saved) == {"norm.weight"}
    assert len(both.tensors) == 2
    known = found.known | {"layers.0.my_norm"}
    refused = plan(found._replace(known=known))
    assert refused.config == {"modules_to_save": ["q_norm"]}
    assert "ends that of another module" in refused.refused["norm.weight"]


def test_entries_keep_lora_off_no_adapted_layer(tmp_path: Path) -> None:
    entry = TensorEntry("norm.weight", "F32", (8,), tmp_path / "a", 0, 32)
    module = WholeModule("norm", WholeKind.NORM, (Part("weight", entry, entry),))
    found = candidates(tmp_path, QUERY)._replace(
        modules=(module,), known=frozenset({"norm"}), adapted=frozenset({"layers.0.norm.linear"})
    )
    refused = plan_whole(found, SaveWhole.ALL, (), None)
    assert refused.config == {}
    assert "keep LoRA off" in refused.refused["norm.weight"]


def test_spans_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loragraft.adapter.whole_plan, "_CHUNK_BYTES", 5)
    data = bytes(range(40))
    (tmp_path / "a").write_bytes(data)
    entry = TensorEntry("t", "U8", (40,), tmp_path / "a", 0, 40)
    tensor = SavedTensor("t", "U8", (16,), entry, ((0, 12), (30, 34)))
    with TensorBytes() as reader:
        pieces = list(read_spans(reader, tensor))
    assert [place for place, _ in pieces] == [0, 5, 10, 12]
    assert b"".join(piece for _, piece in pieces) == data[:12] + data[30:34]
    assert tensor.nbytes == 16


PREFIX = "base_model.model."


def entry_of(key: str, *shape: int) -> TensorEntry:
    from pathlib import Path

    return TensorEntry(PREFIX + key, "F32", shape, Path("adapter_model.safetensors"), 0, 0)


def contents(config: dict[str, Any], *entries: TensorEntry) -> Any:
    return whole_tensors(config, {entry.name: entry for entry in entries})


def test_contents_of_an_adapter() -> None:
    found = contents(
        {
            "modules_to_save": ["input_layernorm", "projector"],
            "trainable_token_indices": {"embed_tokens": [3, 9]},
        },
        entry_of("model.layers.0.input_layernorm.weight", 8),
        entry_of("model.projector.norm.bias", 8),
        entry_of("model.layers.0.q_proj.base_layer.bias", 8),
        entry_of("model.layers.1.q_proj.bias", 8),
        entry_of("model.embed_tokens.token_adapter.trainable_tokens_delta", 2, 8),
        entry_of("model.embed_tokens.base_layer.weight", 20, 8),
    )
    assert {name: sorted(parts) for name, parts in found.modules.items()} == {
        "model.layers.0.input_layernorm": ["weight"],
        "model.projector": ["norm.bias"],
    }
    assert sorted(found.biases) == ["model.layers.0.q_proj", "model.layers.1.q_proj"]
    assert found.tokens["model.embed_tokens"].tokens == (3, 9)
    assert sorted(found.strays) == [PREFIX + "model.embed_tokens.base_layer.weight"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "gives None for model.embed_tokens, expected a list of token numbers"),
        ({"wte": [1]}, "gives None for model.embed_tokens"),
        ([1, -2], r"gives \[1, -2\] for model.embed_tokens"),
        ([1, 2, 3], r"has shape \[2, 8\], expected 3 rows"),
    ],
)
def test_rows_without_tokens_are_refused(given: Any, message: str) -> None:
    rows = entry_of("model.embed_tokens.token_adapter.trainable_tokens_delta", 2, 8)
    with pytest.raises(FormatError, match=message):
        contents({"trainable_token_indices": given}, rows)


def test_modules_to_save_must_be_names() -> None:
    with pytest.raises(FormatError, match="modules_to_save is 'norm', expected a list"):
        Settings.parse({"peft_type": "LORA", "modules_to_save": "norm"}, "adapter_config.json")


@pytest.mark.parametrize(
    ("config", "engines"),
    [
        ({}, {}),
        ({"bias": "lora_only"}, {"vLLM": True, "SGLang": False, "llama.cpp's converter": True}),
        ({"use_dora": True}, {"vLLM": True, "SGLang": True}),
        # Scaled alike everywhere: only the converter divides by each module's own rank.
        (
            {"rank_pattern": {"a": 2}, "alpha_pattern": {"a": 4}},
            {"llama.cpp's converter": False},
        ),
        (
            {"rank_pattern": {"a": 2}},
            {"vLLM": False, "SGLang": False, "llama.cpp's converter": False},
        ),
        ({"target_parameters": ["mlp.experts.down_proj"]}, {"llama.cpp's converter": True}),
    ],
)
def test_engines(config: dict[str, Any], engines: dict[str, bool]) -> None:
    settings = json.loads(json.dumps({"r": 4, "lora_alpha": 8, "bias": "none", **config}))
    notes = engine_notes(settings)
    assert {note.engine: note.refuses for note in notes} == engines
    assert len(engine_warnings(settings)) == len(engines)
    assert all(str(note).startswith(note.engine) for note in notes)
