"""Stores bytes so that an acknowledged put survives a power cut.

DESIGN.md in this folder has the format and the crash table; DESIGN-S3.md has what differs for files in S3.

Independent of web framework, database and Redis: catalog and change events are one protocol (catalog.py).
"""
