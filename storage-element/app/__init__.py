"""The storage element stores files. Its attr.json files are the truth, its database rows a cache of them.

`store` writes and reads files so that an acknowledged one survives a power cut. `modes` and `capacity` decide
what may be written. `api` is the HTTP interface. `upkeep` reconciles the catalog with the disk.
"""
