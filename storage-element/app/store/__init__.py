"""Keeps bytes so that an acknowledged put survives a power cut. DESIGN.md beside this file has the format and the crash table.

Knows no web framework, no database and no Redis: catalog and change events come in as one protocol (catalog.py).
"""
