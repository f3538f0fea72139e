"""LoRA on an embedding: PEFT's names and the orientation of its factors.

The weight of an embedding is ``[V, d]``: V tokens, d numbers each. PEFT stores
``lora_embedding_A`` ``[r, V]`` and ``lora_embedding_B`` ``[d, r]`` and adds scaling·(B A)ᵀ. Where
the change is factored as it is stored, L R with L ``[V, r]`` and R ``[r, d]``, A is Lᵀ and B is Rᵀ:
what a linear layer gets that is stored ``[in, out]``, in = V and out = d.
"""

from __future__ import annotations

from typing import Literal

from loragraft.number_formats import DTYPES


def embedding_keys(module: str) -> tuple[str, str]:
    """Return the tensor names of A and B of an embedding in PEFT's file."""
    stem = f"base_model.model.{module}"
    return f"{stem}.lora_embedding_A", f"{stem}.lora_embedding_B"


def embedding_factors(
    left: bytes, right: bytes, shape: tuple[int, int], rank: int, dtype: str
) -> tuple[bytes, bytes]:
    """Return (lora_embedding_A, lora_embedding_B), row by row.

    Args:
        left: L, ``(V, r)``, row by row.
        right: R, ``(r, d)``, row by row.
        shape: ``(V, d)``.
        rank: r.
        dtype: Safetensors code of both, 16 or 32 bits wide.
    """
    tokens, width = shape
    item = DTYPES[dtype].bits // 8
    return transposed(left, tokens, rank, item), transposed(right, rank, width, item)


def why_not_factored(module: str, tied_head: str) -> str:
    """Return why an embedding cannot carry LoRA factors, empty where it can.

    PEFT adds the change of a tied embedding either to the embedding alone, so that the head lacks
    it until it is merged, or to both, so that merging adds it to their common weight twice.

    Args:
        module: The embedding.
        tied_head: The head that shares its weight, empty where none does.
    """
    if not tied_head:
        return ""
    return (
        f"{module} shares its weight with {tied_head}, and PEFT merges an adapter on both twice:"
        " save it whole instead"
    )


def transposed(data: bytes, rows: int, columns: int, item: int) -> bytes:
    """Return the transpose of a row-major matrix of numbers that are ``item`` bytes wide."""
    unit: Literal["H", "I"] = "H" if item == 2 else "I"
    source = memoryview(data).cast(unit)
    target = memoryview(bytearray(len(data))).cast(unit)
    # As few strided copies as the shape allows; no arrays, whose library takes longer to load.
    if rows < columns:
        for row in range(rows):
            target[row::rows] = source[row * columns : (row + 1) * columns]
    else:
        for column in range(columns):
            target[column * rows : (column + 1) * rows] = source[column::columns]
    return target.tobytes()
