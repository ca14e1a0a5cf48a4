"""Rejects unsafe secrets at the start: short ones, sample values from examples, and files that every user can
read."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

MIN_CHARS = 16
MIN_PASSWORD_CHARS = 8
"""Minimum for a password in a URL, whose length other programs may limit."""
MIN_DISTINCT = 6
_SAMPLE_WORDS = (
    "changeme",
    "change-me",
    "change_me",
    "password",
    "placeholder",
    "insecure",
    "example",
    "default-",
    "minioadmin",
)
"""A random secret of 43 characters contains one of these with a probability below 10^-10."""
_SAMPLE_PASSWORDS = frozenset(
    {"postgres", "postgresql", "artstore", "redis", "admin", "secret", "12345678", "123456789", "qwertyui"}
)


def find_fault(value: str) -> str | None:
    """The problem with a secret, in words that do not repeat it, or None. A URL is judged by the password in
    it, if any."""
    if "://" in value:
        return _fault_of_url(value)
    if len(value) < MIN_CHARS:
        return f"has fewer than {MIN_CHARS} characters"
    return "is not random" if _looks_like_a_sample(value) else None


def check_private(path: Path, name: str) -> None:
    """Raises ValueError if every user can read the file, OSError if it does not exist."""
    if path.stat().st_mode & stat.S_IROTH:
        raise ValueError(f"{name} is readable by every user: run chmod o= {path}")


def _fault_of_url(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        password, host = parts.password, parts.hostname or ""
    except ValueError:
        return "is not a URL"
    if password is None or host in ("localhost", "127.0.0.1", "::1"):
        return None  # the server needs no password, or is not reachable from other machines
    password = unquote(password)
    if len(password) < MIN_PASSWORD_CHARS:
        return f"has a password of fewer than {MIN_PASSWORD_CHARS} characters"
    known = password.lower() in _SAMPLE_PASSWORDS or _looks_like_a_sample(password)
    return "has a password that is not random" if known else None


def _looks_like_a_sample(value: str) -> bool:
    lower = value.lower()
    return len(set(lower)) < MIN_DISTINCT or any(word in lower for word in _SAMPLE_WORDS)
