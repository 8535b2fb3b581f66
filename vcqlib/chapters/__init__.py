"""What only the book needs."""
