"""How full an element is and what it may still take. Pure: the numbers come from outside."""

from __future__ import annotations

from dataclasses import dataclass

from artstore.contracts.elements import Fill

WARNING_AT = 0.80
CRITICAL_AT = 0.95


@dataclass(frozen=True, slots=True)
class Reserve:
    """Room that no put may take: the larger of `bytes` and `percent` of the disk, the percentage up to `most_bytes`."""

    bytes: int = 256 << 20
    percent: float = 1.0
    most_bytes: int = 10 << 30
    inodes: int = 1024


@dataclass(frozen=True, slots=True)
class Space:
    """One look at the disk (or the quota)."""

    total_bytes: int
    free_bytes: int
    free_inodes: int | None = None
    """None: the file system does not count them."""


def reserved_bytes(total_bytes: int, reserve: Reserve) -> int:
    """A share of a huge disk would be absurd, a fixed size of a tiny one everything: never above half of it."""
    share = min(int(total_bytes * reserve.percent / 100), reserve.most_bytes)
    return min(max(reserve.bytes, share), total_bytes // 2)


def available_bytes(space: Space, reserve: Reserve, in_flight_bytes: int) -> int:
    """What puts may still take, never below 0."""
    if space.free_inodes is not None and space.free_inodes <= reserve.inodes:
        return 0
    return max(0, space.free_bytes - reserved_bytes(space.total_bytes, reserve) - in_flight_bytes)


def fill_of(total_bytes: int, available: int) -> Fill:
    if available <= 0 or total_bytes <= 0:
        return Fill.FULL
    taken = 1 - available / total_bytes
    if taken >= CRITICAL_AT:
        return Fill.CRITICAL
    return Fill.WARNING if taken >= WARNING_AT else Fill.OK
