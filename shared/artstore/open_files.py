"""How many files a process may have open. Many shells allow 1024, which is less than a service may have connections."""

from __future__ import annotations

import resource

from artstore.logs import get_logger

log = get_logger("artstore.open_files")

FILES_A_CONNECTION = 3
"""Itself, a file or the way to another module, and some to spare."""


def allow_connections(count: int) -> int:
    """Raises the limit as far as the system lets us, never lowers it; returns what is allowed then."""
    wanted = FILES_A_CONNECTION * count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("few files may be open", allowed=allowed, wanted=wanted)
    return allowed
