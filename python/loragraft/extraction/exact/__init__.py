"""Exact recovery: factors whose merge rounds to the tuned weights, bit for bit (docs/exact.md)."""
