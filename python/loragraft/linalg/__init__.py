"""Kernels on arrays: truncated SVD, projection on subspaces, and similarities.

Arrays come from NumPy or from anything on the CPU that speaks DLPack, such as torch tensors. They
are never modified. float32 is used as it is, float16 is widened, float64 is rounded to float32.
Leading dimensions are a batch, worked on in parallel; results do not depend on the number of
threads.
"""

from loragraft.linalg.operands import SupportsDLPack
from loragraft.linalg.projection import project
from loragraft.linalg.similarity import (
    chance_similarity,
    frobenius_similarity,
    subspace_similarity,
)
from loragraft.linalg.svd import TruncatedSVD, truncated_svd

__all__ = [
    "SupportsDLPack",
    "TruncatedSVD",
    "chance_similarity",
    "frobenius_similarity",
    "project",
    "subspace_similarity",
    "truncated_svd",
]
