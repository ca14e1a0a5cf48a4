"""One file: its attributes through the four levels, and its bytes."""
