"""`vcq …`: the same from the shell."""
