"""Closed forms: where the cliff lies, and how large the codebook is at each position."""
