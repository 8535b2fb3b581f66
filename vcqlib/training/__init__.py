"""The two training loops, and what surrounds them."""
