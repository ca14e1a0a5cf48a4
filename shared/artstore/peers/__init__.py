"""Calls from one module to another: connections, limits, circuit breakers, and the detection of a peer that hangs."""
