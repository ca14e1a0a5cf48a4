"""The storage element keeps bytes. Its attr.json files are the truth, its database rows a cache of them.

`store` writes and reads files so that an acknowledged one survives a power cut; `modes` and `capacity` decide what may be
written; `api` is the way in over HTTP; `upkeep` brings the catalog in line with the disk.
"""
