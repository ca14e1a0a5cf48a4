"""Storage elements: their reports, their registry entries and the published snapshot."""

from __future__ import annotations

import enum

import msgspec
from pydantic import BaseModel, ConfigDict, StrictBool

CONFIG_CHANNEL = "storage-elements:config"
"""Redis channel: the whole Snapshot as JSON after each change."""
SNAPSHOT_KEY = "storage-elements:config:snapshot"
"""Redis key: the last Snapshot as JSON."""
ANNOUNCE_EVERY_S = 30
DEFAULT_PRIORITY = 100
MAKE_ROOT = "make_root"
"""`verdict` in the answer to a report without a root: the element may create one."""
AWAY_AFTER_S = 90
"""An element that was silent for this long counts as unavailable: it missed three announcements."""
ONLINE, AWAY = "online", "away"
"""`Element.status`."""


class Mode(enum.StrEnum):
    """The mode of an element. It can only advance in this order."""

    EDIT = "edit"
    RW = "rw"
    RO = "ro"
    AR = "ar"


class ModeChange(BaseModel):
    """An operator's order to admin, and admin's to the element."""

    model_config = ConfigDict(extra="forbid")
    mode: Mode


class RebuildOrder(BaseModel):
    """As ModeChange."""

    model_config = ConfigDict(extra="forbid")
    force: StrictBool = False
    """Rebuild even if the disk looks empty, or most of the catalog's rows would be deleted."""


class Fill(enum.StrEnum):
    """The fill level of an element."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    FULL = "full"


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """Space on the element's disk or in its quota, in bytes. `available_bytes` is what a put may use: free,
    minus reserve, minus uploads in progress."""

    total_bytes: int
    used_bytes: int
    available_bytes: int
    files: int
    fill: Fill


class CatalogMemory(msgspec.Struct, frozen=True, kw_only=True):
    """An element's durable record of the catalog, so that admin notices when PostgreSQL was restored to
    an earlier state."""

    generation: int = 0
    """The highest generation seen."""
    reconciled: int = 0
    """The generation whose catalog was last reconciled with this element's disk."""
    version: int = 0
    """The registry version in the last answer to a report; 0 before the first answer."""
    version_generation: int = 0
    """The generation that `version` belongs to."""
    doubt: str = ""
    """The reason why the catalog of `generation` cannot be the one this element knew; empty without one."""
    empty: bool = False
    """The element has no files, so there is nothing to reconcile."""


class RegistryState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the registry, in the answer to a report."""

    generation: int
    generation_started_at: str
    version: int


class ElementReport(msgspec.Struct, frozen=True, kw_only=True):
    """The report that an element sends at its start and every ANNOUNCE_EVERY_S."""

    id: str
    url: str
    mode: Mode
    backend: str
    version: str
    capacity: Capacity
    priority: int = DEFAULT_PRIORITY
    """The configured priority; a priority set at admin takes precedence."""
    read_only_reason: str | None = None
    """The reason if the element has made itself read-only, for instance EIO."""
    catalog: CatalogMemory | None = None
    """None while the element's store is not open."""
    away_reason: str | None = None
    """The reason if the element cannot serve at the moment, for instance because its disk is not mounted."""
    mode_forced: bool = False
    """The operator's configuration demands this mode, even if it is earlier in the order than the known one.
    """
    root_id: str | None = None
    """The id of the open root; empty without a root; None from a version without root ids."""
    incarnation: int = 0
    """Incremented at each start of this root."""
    instance: str = ""
    """Random for each process: distinguishes two processes with the same incarnation."""
    public_url: str | None = None
    """The address at which clients reach the element, for signed links; None: they do not."""
    fenced: bool = False
    """This root was refused before; it may serve again only after an operator's accept-root."""


class RefusedRoot(msgspec.Struct, frozen=True, kw_only=True):
    """The last report of an element that admin refused."""

    code: str
    """`root_refused` or `fenced`, as in the problem document."""
    reason: str
    root_id: str
    incarnation: int
    url: str
    files: int
    at: str


class Element(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the registry. `status` is ONLINE or AWAY; elements with lower `priority` are filled
    first."""

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
    """The generation of the catalog that contains all of the element's files."""
    public_url: str | None = None
    """The address at which clients reach the element, for signed links."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The published registry. A subscriber ignores a snapshot whose (generation, version) is lower than its
    own."""

    version: int
    published_at: str
    elements: list[Element]
    generation: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return self.generation, self.version

    @property
    def catalog_complete(self) -> bool:
        """True if every element has reconciled with this generation and at least one is known. Otherwise
        lists may lack files."""
        return bool(self.elements) and all(element.generation >= self.generation for element in self.elements)
