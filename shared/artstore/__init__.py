"""The common library of the four services: what must be the same in all of them, and nothing else."""

__version__ = "0.1.0"
