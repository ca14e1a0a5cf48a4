"""Resumable uploads (tus 1.0): the bytes wait on an element, and any ingester takes the next request."""
