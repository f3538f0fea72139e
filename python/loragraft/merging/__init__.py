"""An adapter added into its base model: a checkpoint laid out like the base's."""

from loragraft.merging.merger import MergeResult, merge

__all__ = ["MergeResult", "merge"]
