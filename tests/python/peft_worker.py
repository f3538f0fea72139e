"""Runs one version of PEFT: the logits of a model with an adapter, or what went wrong.

    python peft_worker.py JOB.json

JOB has ``base``, ``adapter``, ``tokens`` and ``out``, an .npy of logits ``(tokens, vocabulary)``.
The last line printed is JSON: ``version``, and ``error`` where there was one.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    told: dict[str, str] = {}
    try:
        import peft
        from transformers import AutoModelForCausalLM

        told["version"] = peft.__version__
        model = AutoModelForCausalLM.from_pretrained(
            job["base"], dtype=torch.float32, attn_implementation="eager"
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = peft.PeftModel.from_pretrained(model, job["adapter"]).eval()
        missing = [str(one.message) for one in caught if "missing" in str(one.message).lower()]
        if missing:
            told["warning"] = missing[0][:120]
        with torch.no_grad():
            logits = adapted(torch.tensor([job["tokens"]])).logits[0].numpy()
        np.save(job["out"], logits)
    except Exception as error:
        told["error"] = f"{type(error).__name__}: {error}".split("\n")[0][:160]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
