"""The script that people write: stream both checkpoints and call torch.svd_lowrank.

It takes what the published recipes take: a float32 difference per tensor, eight columns of
oversampling, two power iterations, factors balanced as U√Σ and √ΣVᵀ, stored in fp16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import streaming
import torch

if TYPE_CHECKING:
    from streaming import Triplets


def factorise(delta: torch.Tensor, rank: int) -> Triplets:
    left, values, right = torch.svd_lowrank(delta, q=rank + 8, niter=2)
    return left[:, :rank], values[:rank], right[:, :rank]


if __name__ == "__main__":
    streaming.main(__doc__, factorise)
