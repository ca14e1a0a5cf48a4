"""Idempotency-Key: a request is done once, however often it is sent and whatever dies in between.

docs/decisions/0007-idempotency-keys.md has the order of events and what a crash after each leaves.
"""
