"""Calls between services: connections, limits, circuit breakers, detection of peers that hang."""
