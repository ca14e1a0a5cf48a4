"""Distributed transactions: every saga that has begun ends committed, undone or refused."""
