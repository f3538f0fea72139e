"""Runs llama.cpp's own converter on a model without a tokenizer.

    python llama_converter.py LLAMA_CPP MODEL OUT [f32|f16|q8_0] [--fused]

LLAMA_CPP is a directory with its sources. Only the vocabulary is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    sources, model, out, kind, *rest = sys.argv[1:]
    sys.path[:0] = [str(Path(sources) / "gguf-py"), sources]
    import gguf
    import torch
    from conversion import get_model_class
    from conversion.base import ModelBase, ModelType, get_model_architecture

    hparams = ModelBase.load_hparams(Path(model), False)
    converter = get_model_class(get_model_architecture(hparams, ModelType.TEXT))

    class WithoutVocabulary(converter):
        model_arch = converter.model_arch
        no_mtp = True

        def set_vocab(self) -> None:
            self.gguf_writer.add_tokenizer_model("none")
            if not any(key.endswith(".vocab_size") for key in self.gguf_writer.kv_data[0]):
                self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

    kinds = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "bf16": gguf.LlamaFileType.MOSTLY_BF16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    with torch.inference_mode():
        WithoutVocabulary(
            Path(model), kinds[kind], Path(out), eager=True, fuse_gate_up_exps="--fused" in rest
        ).write()


if __name__ == "__main__":
    main()
