"""The leading singular subspaces of weights, and how much of their overlap is chance."""
