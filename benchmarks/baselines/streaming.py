"""What the scripts beside this one share: stream two checkpoints, write an adapter.

The factors are U√Σ and √ΣVᵀ of the float32 difference, stored in fp16, as in the published
recipes; only the way to U, Σ and V is each script's own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Callable

    Triplets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    Factorisation = Callable[[torch.Tensor, int], Triplets]


def main(description: str | None, factorise: Factorisation) -> None:
    """Do what the command line asks for.

    Args:
        description: For ``--help``.
        factorise: From ΔW and a rank to U (out, rank), Σ (rank) and V (in, rank).
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("base", type=Path)
    parser.add_argument("tuned", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    extract(arguments.base, arguments.tuned, arguments.output, arguments.rank, factorise)


@torch.inference_mode()
def extract(base: Path, tuned: Path, output: Path, rank: int, factorise: Factorisation) -> None:
    """Factor the change of every matrix and write a PEFT adapter."""
    factors = {}
    with (
        safe_open(base / "model.safetensors", "pt") as before,
        safe_open(tuned / "model.safetensors", "pt") as after,
    ):
        for name in before.keys():  # noqa: SIM118 - safe_open is no mapping
            delta = after.get_tensor(name).float() - before.get_tensor(name).float()
            if delta.ndim != 2:
                continue
            left, values, right = factorise(delta, rank)
            root = values.sqrt()
            key = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{key}.lora_A.weight"] = (right * root).T.half().contiguous()
            factors[f"{key}.lora_B.weight"] = (left * root).half().contiguous()
    output.mkdir(parents=True)
    save_file(factors, output / "adapter_model.safetensors", metadata={"format": "pt"})
    kinds = sorted({key.split(".")[-3] for key in factors})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": kinds}
    (output / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
