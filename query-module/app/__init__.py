"""The query module: finds a file and gives it back, also when other parts are away.

It writes no file. What it remembers (process memory, Redis, the catalog) are caches of the elements' attr.json files, and
the revision in each decides which is newer.
"""
