"""`inspect`: what a checkpoint or an adapter consists of, and what would load it."""

from loragraft.inspection.look import inspect

__all__ = ["inspect"]
