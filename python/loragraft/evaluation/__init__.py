"""Evaluation: what an adapter does to a model, question by question, against chance."""
