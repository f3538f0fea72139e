"""Weights as the matrices they stand for, however a checkpoint stores them."""
