"""Clocks and UUIDv7. Code that needs the time takes a Clock as an argument, so that tests can control it."""

from __future__ import annotations

import os
import random
import re
import time
from datetime import UTC, datetime
from uuid import UUID

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Clock:
    """The system's clocks. A test passes a subclass."""

    __slots__ = ()

    def now(self) -> datetime:
        """Wall-clock time, timezone-aware UTC."""
        return datetime.now(UTC)

    def unix_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()


def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds, as in attr.json and every response: 2026-01-01T00:00:00.000000Z."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """The time in UTC. Raises ValueError for anything but a date-time with an offset, and outside the years 1
    to 9999."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("the time must have an offset")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the year must be between 1 and 9999") from error


def is_rfc3339(text: str) -> bool:
    """True if the text has the form of an RFC 3339 date-time with an offset; ISO 8601 allows many more."""
    return _RFC3339.fullmatch(text) is not None


def uuid7(unix_ms: int | None = None) -> UUID:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, by default the current time, and random bits."""
    now_ms = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    return UUID(int=_uuid7_number(now_ms, int.from_bytes(os.urandom(10), "big")))


def uuid7s(count: int) -> list[str]:
    """As texts, by one system call."""
    now_ms, random_bytes = time.time_ns() // 1_000_000, os.urandom(10 * count)
    digits = (
        f"{_uuid7_number(now_ms, int.from_bytes(random_bytes[start : start + 10], 'big')):032x}"
        for start in range(0, 10 * count, 10)
    )
    return [f"{one[:8]}-{one[8:12]}-{one[12:16]}-{one[16:20]}-{one[20:]}" for one in digits]


def uuid7_hex() -> str:
    """The 32 digits of a UUIDv7 that only has to be unique, at a fifth of the cost: without a system call for the
    random bits, and without the object."""
    return f"{_uuid7_number(time.time_ns() // 1_000_000, random.getrandbits(80)):032x}"


def _uuid7_number(unix_ms: int, random_bits: int) -> int:
    value = (unix_ms & (2**48 - 1)) << 80 | random_bits
    value &= ~(0xF << 76) & ~(0x3 << 62)
    return value | 0x7 << 76 | 0x2 << 62


def first_uuid7(unix_s: float) -> UUID:
    """The lowest UUIDv7 of that millisecond. Ids generated earlier compare lower, in Python and in
    PostgreSQL."""
    return UUID(int=(int(unix_s * 1000) & (2**48 - 1)) << 80 | 0x7 << 76 | 0x2 << 62)
