"""What an adapter makes its source say, put into the target's last output projections."""
