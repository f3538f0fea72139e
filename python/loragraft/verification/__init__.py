"""What an adapter reproduces of a tuned checkpoint, recomputed from the files alone."""

from loragraft.verification.verdict import verify

__all__ = ["verify"]
