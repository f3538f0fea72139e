"""Makes a later release of a model: all of its weights trained on, on a text it was not tuned for.

    python continued.py MODEL OUT [--steps 60]

The text is Python's own language reference, which every Python carries (`pydoc_data.topics`).
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Train on, and save the model in the dtype it came in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-4)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = torch.tensor(tokenizer(text).input_ids)
    blocks = ids[: len(ids) // arguments.tokens * arguments.tokens].view(-1, arguments.tokens)
    order = random.Random(0).sample(range(len(blocks)), arguments.steps * arguments.size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.rate, weight_decay=0.0)
    started, losses = time.monotonic(), []
    for step in range(arguments.steps):
        rows = blocks[order[step * arguments.size : (step + 1) * arguments.size]]
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if step % 10 == 9:
            mean = sum(losses[-10:]) / 10
            print(f"step {step + 1}: {mean:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
