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
MAKE_ROOT = "make_root"
"""`verdict` in the answer to a report without a root: the element may make one."""
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


class CatalogMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What an element remembers of the catalog, durably: how admin finds out that PostgreSQL went back in time."""

    generation: int = 0
    """The highest generation heard of."""
    reconciled: int = 0
    """The generation whose catalog was last brought in line with this element's disk."""
    version: int = 0
    """The registry's version in the last answer to a report; 0: none yet."""
    version_generation: int = 0
    """The generation that `version` belongs to."""
    doubt: str = ""
    """Why the catalog of `generation` cannot be the one this element knew; empty: no reason."""
    empty: bool = False
    """The element has no file, so there is nothing to reconcile."""


class RegistryState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the registry is, in the answer to a report."""

    generation: int
    generation_started_at: str
    version: int


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
    catalog: CatalogMemory | None = None
    """None while the element's store is not open."""
    away_reason: str | None = None
    """Why the element serves nothing at the moment, for instance because its disk is not mounted."""
    mode_forced: bool = False
    """The operator's configuration demands this mode, also when it is further back than the one known."""
    root_id: str | None = None
    """Of the root that is open; empty without a root; None from a version that had no root ids."""
    incarnation: int = 0
    """Grows by one with each start of this root."""
    instance: str = ""
    """Random for each process: tells two processes with the same incarnation apart."""
    fenced: bool = False
    """This root was refused before: only an operator's accept-root lets it serve again."""


class RefusedRoot(msgspec.Struct, frozen=True, kw_only=True):
    """The last report of an element that admin refused, and why."""

    code: str
    """`root_refused` or `fenced`, as in the problem document."""
    reason: str
    root_id: str
    incarnation: int
    url: str
    files: int
    at: str


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
    away_reason: str | None = None
    root_id: str | None = None
    incarnation: int = 0
    refused: RefusedRoot | None = None
    generation: int = 0
    """The generation of the catalog that holds all of the element's files."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The published registry. A subscriber ignores one whose (generation, version) is lower than what it has."""

    version: int
    published_at: str
    elements: list[Element]
    generation: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return self.generation, self.version

    @property
    def catalog_complete(self) -> bool:
        """False while an element has not reconciled with this generation, or none is known: lists may lack files."""
        return bool(self.elements) and all(element.generation >= self.generation for element in self.elements)
