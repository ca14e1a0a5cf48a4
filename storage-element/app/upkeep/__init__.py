"""Keeps what stands beside the protocols in order: catalog and figures in line with the disk, bytes with their hashes,
what has expired or is left over out of the way. Everything here may be interrupted anywhere and goes on later.
"""
