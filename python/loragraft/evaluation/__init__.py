"""Evaluation: what an adapter does to a model, question by question, against chance."""

from loragraft.evaluation.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
