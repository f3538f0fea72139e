"""The script that leaves nothing to chance: a full SVD of every difference, then the cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streaming
import torch

if TYPE_CHECKING:
    from streaming import Triplets


def factorise(delta: torch.Tensor, rank: int) -> Triplets:
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    return left[:, :rank], values[:rank], right[:rank].T


if __name__ == "__main__":
    streaming.main(__doc__, factorise)
