"""Everything that crosses a process boundary: message shapes, names of channels and keys, limits."""
