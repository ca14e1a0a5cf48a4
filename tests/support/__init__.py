"""What the tests of the whole system share: a running system, and how a client sees it."""
