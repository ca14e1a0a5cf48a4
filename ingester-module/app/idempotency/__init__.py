"""Idempotency-Key: a request runs at most once, however often it is sent and whichever process dies
meanwhile.

docs/decisions/0007-idempotency-keys.md has the order of events and what a crash after each leaves.
"""
