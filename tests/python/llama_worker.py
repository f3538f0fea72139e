"""Runs llama.cpp, in an environment of its own: logits of a model, alone and with adapters.

    python llama_worker.py JOB.json

JOB has ``model``, ``adapters`` (name -> path), ``tokens`` and ``out``, an .npz with ``base`` and an
array ``(tokens, vocabulary)`` for every adapter that was loaded.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp as llama
import numpy as np


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    quiet = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    llama.llama_backend_init()
    settings = llama.llama_model_default_params()
    settings.n_gpu_layers = 0
    settings.use_extra_bufts = False
    model = llama.llama_model_load_from_file(job["model"].encode(), settings)
    if not model:
        raise SystemExit(f"{job['model']}: llama.cpp does not load it")
    context = llama.llama_init_from_model(model, _context_settings())
    found = {"base": _logits(model, context, job["tokens"])}
    for name, path in job["adapters"].items():
        adapter = llama.llama_adapter_lora_init(model, path.encode())
        if not adapter:
            continue
        held = (llama.llama_adapter_lora_p_ctypes * 1)(adapter)
        if llama.llama_set_adapters_lora(context, held, 1, (ctypes.c_float * 1)(1.0)):
            raise SystemExit(f"{path}: llama.cpp does not take it")
        found[name] = _logits(model, context, job["tokens"])
    np.savez(job["out"], **found)


def _context_settings() -> llama.llama_context_params:
    """One thread, and a cache in single precision: as near to transformers as it gets."""
    settings = llama.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 512
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = llama.GGML_TYPE_F32
    settings.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return settings


def _logits(model: object, context: object, tokens: list[int]) -> np.ndarray:
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for place, token in enumerate(tokens):
        batch.token[place] = token
        batch.pos[place] = place
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = 0
        batch.logits[place] = 1
    if llama.llama_decode(context, batch):
        raise SystemExit("llama.cpp does not decode")
    width = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    rows = [
        np.ctypeslib.as_array(llama.llama_get_logits_ith(context, place), (width,)).copy()
        for place in range(len(tokens))
    ]
    llama.llama_batch_free(batch)
    return np.stack(rows)


if __name__ == "__main__":
    main()
