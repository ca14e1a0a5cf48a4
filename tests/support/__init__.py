"""Shared by the tests of the whole system: a running system, and its clients."""
