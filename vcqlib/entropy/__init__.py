"""Measured entropy of token matrices, of any size."""
