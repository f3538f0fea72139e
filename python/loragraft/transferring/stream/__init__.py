"""What two whole models have in common: one map of their residual streams, heads and neurons."""
