"""What crosses a process boundary, and only that: shapes, names of channels and keys, limits."""
