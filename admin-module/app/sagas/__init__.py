"""Distributed transactions: what has begun is committed or undone, and never forgotten."""
