"""Checkpoints and adapters as strangers might hand them out, each with what must come of it."""
