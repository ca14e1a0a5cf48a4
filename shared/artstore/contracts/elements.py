"""Elements as they announce themselves, as admin keeps them, and as the snapshot publishes them."""

from __future__ import annotations

import enum

import msgspec

CONFIG_CHANNEL = "storage-elements:config"
"""Redis channel: the whole Snapshot as JSON after each change."""
SNAPSHOT_KEY = "storage-elements:config:snapshot"
"""Redis key: the last Snapshot as JSON."""
ANNOUNCE_EVERY_S = 30
DEFAULT_PRIORITY = 100
AWAY_AFTER_S = 90
"""Silence after which an element counts as away: three announcements missed."""


class Mode(enum.StrEnum):
    """One way only, in this order."""

    EDIT = "edit"
    RW = "rw"
    RO = "ro"
    AR = "ar"


class Fill(enum.StrEnum):
    """How full an element is."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    FULL = "full"


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the element's disk or quota. `available_bytes` is what a put may take: free, less reserve, less in flight."""

    total_bytes: int
    used_bytes: int
    available_bytes: int
    files: int
    fill: Fill


class ElementReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an element says of itself at start and every ANNOUNCE_EVERY_S: the body of its announcement."""

    id: str
    url: str
    mode: Mode
    backend: str
    version: str
    capacity: Capacity
    priority: int = DEFAULT_PRIORITY
    """What the element was configured with; a priority set at admin goes before it."""
    read_only_reason: str | None = None
    """Set when the element has turned itself read-only, for instance after EIO."""


class Element(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the registry. `status` is `online` or `away`; lower `priority` is filled first."""

    id: str
    url: str
    mode: Mode
    backend: str
    version: str
    capacity: Capacity
    priority: int
    status: str
    last_seen_at: str
    registered_at: str
    read_only_reason: str | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The published registry. A subscriber ignores a version lower than the one it has."""

    version: int
    published_at: str
    elements: list[Element]
