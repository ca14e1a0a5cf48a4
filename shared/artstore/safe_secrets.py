"""Which secrets a service refuses to start with: short ones, ones from somebody's example, and files that everybody may read."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

MIN_CHARS = 16
MIN_PASSWORD_CHARS = 8
"""Of a password in an URL: what other programs may limit."""
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
"""By chance one of these stands in a random secret of 43 characters once in 10^10 times or more seldom."""
_SAMPLE_PASSWORDS = frozenset(
    {"postgres", "postgresql", "artstore", "redis", "admin", "secret", "12345678", "123456789", "qwertyui"}
)


def find_fault(value: str) -> str | None:
    """What is wrong with a secret, in words that do not repeat it. An URL is judged by the password in it, if there is one."""
    if "://" in value:
        return _fault_of_url(value)
    if len(value) < MIN_CHARS:
        return f"has fewer than {MIN_CHARS} characters"
    return "is not random" if _looks_like_a_sample(value) else None


def check_private(path: Path, name: str) -> None:
    """Raises ValueError for a file that everybody may read, OSError for one that is not there."""
    if path.stat().st_mode & stat.S_IROTH:
        raise ValueError(f"{name} can be read by everybody: chmod o= {path}")


def _fault_of_url(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        password, host = parts.password, parts.hostname or ""
    except ValueError:
        return "is not a URL"
    if password is None or host in ("localhost", "127.0.0.1", "::1"):
        return None  # the server asks for none, or nobody else can reach it
    password = unquote(password)
    if len(password) < MIN_PASSWORD_CHARS:
        return f"has a password of fewer than {MIN_PASSWORD_CHARS} characters"
    known = password.lower() in _SAMPLE_PASSWORDS or _looks_like_a_sample(password)
    return "has a password that is not random" if known else None


def _looks_like_a_sample(value: str) -> bool:
    lower = value.lower()
    return len(set(lower)) < MIN_DISTINCT or any(word in lower for word in _SAMPLE_WORDS)
