"""The query module: finds files and returns them, also while dependencies are unavailable.

It writes no file. Process memory, Redis and the catalog are caches of the elements' attr.json, and the revision in each
decides which is newer.
"""
