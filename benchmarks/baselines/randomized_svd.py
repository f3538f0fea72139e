"""The script with scikit-learn: randomized_svd with its own defaults.

That is ten columns of oversampling, seven power iterations for a rank as small as this
(``n_iter="auto"``), and an LU factorisation between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import streaming
import torch
from sklearn.utils.extmath import randomized_svd

if TYPE_CHECKING:
    from streaming import Triplets


def factorise(delta: torch.Tensor, rank: int) -> Triplets:
    left, values, right = randomized_svd(delta.numpy(), n_components=rank, random_state=0)
    return torch.from_numpy(left), torch.from_numpy(values), torch.from_numpy(right).T


if __name__ == "__main__":
    streaming.main(__doc__, factorise)
