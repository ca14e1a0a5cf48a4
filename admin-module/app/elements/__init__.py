"""The registry of storage elements, and how the other modules learn of it."""
