"""Base + adapter + residual = the tuned checkpoint, bit for bit.

The residual lists every tensor of the tuned checkpoint and holds what merging the adapter does not
give of it; docs/formats.md defines its file.
"""
