"""Stores bytes so that an acknowledged put survives a power cut. DESIGN.md in this folder has the format and the crash table.

Independent of web framework, database and Redis: catalog and change events are one protocol (catalog.py).
"""
