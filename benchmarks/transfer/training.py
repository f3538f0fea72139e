"""Trains a LoRA on a task, on a CPU, with the loss on answers alone.

python training.py MODEL DATA OUT [--steps 300] [--rank 16]
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from peft import LoraConfig, get_peft_model
from tasks import Question, questions
from texts import Batch, answer_loss, batch_of
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODULES: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Train and save one adapter."""
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    config = LoraConfig(
        r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules=_MODULES, lora_dropout=0.0
    )
    model = get_peft_model(model, config)
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=arguments.rate, weight_decay=0.0)
    started = time.monotonic()
    losses = []
    batches = _batches(questions(arguments.data, "train"), tokenizer, arguments.size)
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * _schedule(step / arguments.steps)
        loss = answer_loss(model, next(batches)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if step % 20 == 19:
            seconds = time.monotonic() - started
            print(
                f"step {step + 1}: {sum(losses[-20:]) / 20:.3f} nats, {seconds:.0f} s", flush=True
            )
    model.save_pretrained(arguments.out)


def _batches(asked: list[Question], tokenizer, size: int) -> Iterator[Batch]:
    """Yield batches without end; questions of like length together, in random order."""
    rng = random.Random(0)
    while True:
        order = sorted(asked, key=lambda one: len(one.prompt) + rng.uniform(0, 40))
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        rng.shuffle(groups)
        for group in groups:
            yield batch_of(tokenizer, [(one.prompt, one.answer) for one in group])


def _schedule(progress: float) -> float:
    warmup = 0.05
    if progress < warmup:
        return (progress + 0.002) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
