"""config.json of wrong types and values."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hostile import toy
from hostile.case import CHECKPOINT, EXTRACT, LOOK, Case

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KIND: Final = "config"
_MERGE: Final = CHECKPOINT[4:5]
_AS_FP32: Final = (("merge", "BAD", "ADAPTER", "-o", "OUT", "--dtype", "fp32"),)
_TEXTS: Final = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": "{}".encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "cut off": b'{"model_type": "lla',
    "100,000 deep": b'{"a":' * 100_000,
    "a number of 5,000 digits": b'{"hidden_size": ' + b"7" * 5000 + b"}",
    "NUL": b'{"model_type": "ll\0ama"}',
    "two objects": b"{}{}",
}
_KEYS: Final = (
    "model_type",
    "architectures",
    "text_config",
    "num_hidden_layers",
    "num_attention_heads",
    "num_experts",
    "tie_word_embeddings",
    "quantization_config",
    "hidden_size",
    "torch_dtype",
    "is_encoder_decoder",
)
_VALUES: Final[dict[str, Any]] = {
    "null": None,
    "a number": 7,
    "minus one": -1,
    "a large number": 10**300,
    "a list of lists": [[[]]],
    "a list of numbers": [1, 2.5, None],
    "an object": {"a": {"b": []}},
    "a text": "\x1b[31mred\n",
    "half a surrogate pair": "\ud800",
    "true": True,
}
#: What a value of `_VALUES` may be for such a key without anybody minding.
_ODD: Final = (0, 3, 4)


def _config(content: object, directory: Path) -> None:
    toy.write_checkpoint(directory, toy.tensors(1), content)


def _deep(depth: int, key: str, directory: Path) -> None:
    text = f'{{"model_type":"llama","{key}":{"[" * depth}{"]" * depth}}}'
    toy.write_checkpoint(directory, toy.tensors(1), text.encode())


def _deep_objects(depth: int, directory: Path) -> None:
    text = '{"a":' * depth + "1" + "}" * depth
    toy.write_checkpoint(directory, toy.tensors(1), text.encode())


def _experts(config: dict[str, Any], found: toy.Tensors, directory: Path) -> None:
    toy.write_checkpoint(directory, {**toy.tensors(1), **found}, config)


def cases() -> Iterator[Case]:
    """Yield the cases."""
    for name, content in _TEXTS.items():
        yield Case(_KIND, name, partial(_config, content), CHECKPOINT[:2], says="config.json")
    for key in _KEYS:
        for name, value in _VALUES.items():
            config = {**toy.CONFIG, key: value}
            make = partial(_config, config)
            yield Case(_KIND, f"{key} is {name} (legal)", make, LOOK + EXTRACT, (0,))
    for depth in (300, 900, 950, 985, 1000):
        for key in ("model_type", "text_config", "a"):
            make = partial(_deep, depth, key)
            name = f"{key} {depth} lists deep"
            yield Case(_KIND, name, make, LOOK + EXTRACT + _AS_FP32, (0, 3))
        make = partial(_deep_objects, depth)
        yield Case(_KIND, f"objects {depth} deep", make, LOOK + EXTRACT + _AS_FP32, (0, 3))
    surrogate = partial(_config, b'{"model_type": "llama", "a": "\\ud800"}')
    yield Case(_KIND, "half a surrogate pair, rewritten", surrogate, _MERGE + _AS_FP32, (0, 3))
    yield from _expert_cases()


def _expert_cases() -> Iterator[Case]:
    stack = {
        "model.layers.0.mlp.experts.gate_up_proj": toy.zeros("BF16", [4, 8, 12], b"\x3f"),
        "model.layers.0.mlp.experts.down_proj": toy.zeros("BF16", [4, 12, 4], b"\x3f"),
    }
    qwen = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
    for count in (0, -1, 3, 10**9, 10**400):
        make = partial(_experts, {**qwen, "num_experts": count}, stack)
        yield Case(
            _KIND,
            f"num_experts {count:.3g}"
            if count < 10**9
            else f"num_experts of {len(str(count))} digits",
            make,
            LOOK + EXTRACT,
        )
    for shape in ([0, 8, 12], [4, 0, 12], [4, 8, 0], [4, 8], [4, 8, 12, 1], [4, 9, 12]):
        bent = {**stack, "model.layers.0.mlp.experts.gate_up_proj": toy.zeros("BF16", shape)}
        make = partial(_experts, qwen, bent)
        yield Case(_KIND, f"experts of shape {shape}", make, LOOK + EXTRACT, (3, 4))
    unknown = partial(_experts, {"model_type": "nobody"}, stack)
    yield Case(_KIND, "stacked experts of a model nobody knows", unknown, LOOK + EXTRACT, (0, 4))
    far = {
        f"model.layers.0.mlp.experts.999999.{n}_proj.weight": toy.zeros("BF16", [4, 12])
        for n in ("gate", "up")
    }
    far["model.layers.0.mlp.experts.999999.down_proj.weight"] = toy.zeros("BF16", [12, 4])
    yield Case(_KIND, "expert 999,999 alone", partial(_experts, qwen, far), LOOK + EXTRACT)
    dbrx = {"model_type": "dbrx", "architectures": ["DbrxForCausalLM"]}
    flat = {
        f"transformer.blocks.0.ffn.experts.mlp.{n}": toy.zeros("BF16", [16, 12])
        for n in ("w1", "v1", "w2")
    }
    for count in (0, -4, 3, 4, 10**9, "4", None):
        config = {**dbrx, "ffn_config": {"moe_num_experts": count}}
        make = partial(_experts, config, flat)
        codes = (0,) if count == 4 else (3,)
        yield Case(_KIND, f"experts below one another, {count!r}", make, LOOK, codes)
