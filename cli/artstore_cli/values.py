"""Reads the values on a command line: sizes, times, durations, pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from .errors import UsageError

UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(option: str, text: str | None) -> int | None:
    """Bytes: 512, 10KiB, 1.5G. Units are powers of 1024. Raises UsageError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"{option}: {text!r} is not a size", "write it as 512, 10KiB or 1.5GiB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def parse_duration(text: str) -> int:
    """Seconds: 90, 90s, 30m, 12h, 7d. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,9})\s*([smhdw]?)", text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a duration", "write it as 90s, 30m, 12h or 7d")
    return int(found[1]) * SECONDS[found[2]]


def parse_time(option: str, text: str | None) -> datetime | None:
    """A date or RFC 3339; without an offset in local time. Raises UsageError."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option}: {text!r} is not a time", "write it as 2026-05-31 or 2026-05-31T12:00:00Z"
        ) from None


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """k=v, repeated. Raises UsageError."""
    pairs = dict[str, str]()
    for text in texts:
        key, separator, value = text.partition("=")
        if not (key and separator):
            raise UsageError(f"{option}: {text!r} is not KEY=VALUE")
        if key in pairs:
            raise UsageError(f"{option}: {key!r} is given twice")
        pairs[key] = value
    return pairs
