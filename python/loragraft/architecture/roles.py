"""What a linear layer does in its block."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The part that a linear layer plays; selections such as ``attention`` are made of roles."""

    ATTENTION = "attention"
    MLP = "mlp"
    EXPERTS = "experts"
    ROUTER = "router"
    HEAD = "head"
    EMBEDDING = "embedding"
    OTHER = "other"
