"""The script that people write: stream both checkpoints and call torch.svd_lowrank.

It takes what the published recipes take: a float32 difference per tensor, eight columns of
oversampling, two power iterations, factors balanced as U√Σ and √ΣVᵀ, stored in fp16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("tuned", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    extract(arguments.base, arguments.tuned, arguments.output, arguments.rank)


@torch.inference_mode()
def extract(base: Path, tuned: Path, output: Path, rank: int) -> None:
    factors = {}
    with (
        safe_open(base / "model.safetensors", "pt") as before,
        safe_open(tuned / "model.safetensors", "pt") as after,
    ):
        for name in before.keys():  # noqa: SIM118 - safe_open is no mapping
            delta = after.get_tensor(name).float() - before.get_tensor(name).float()
            if delta.ndim != 2:
                continue
            left, values, right = torch.svd_lowrank(delta, q=rank + 8, niter=2)
            root = values[:rank].sqrt()
            key = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{key}.lora_A.weight"] = (right[:, :rank] * root).T.half().contiguous()
            factors[f"{key}.lora_B.weight"] = (left[:, :rank] * root).half().contiguous()
    output.mkdir(parents=True)
    save_file(factors, output / "adapter_model.safetensors", metadata={"format": "pt"})
    kinds = sorted({key.split(".")[-3] for key in factors})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": kinds}
    (output / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
