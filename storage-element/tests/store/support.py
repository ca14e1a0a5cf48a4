"""A store on a real folder, a catalog that remembers, and what must be true of a root after anything."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from app.store.catalog import Catalog, CatalogEntry, RowRefused
from app.store.open import StoreSettings, locked_root, open_store
from app.store.put import PutOrder, PutResult, put
from app.store.receive import Body
from app.store.space import Reserve
from app.store.store import FileChange, Store
from app.store.wal.ring import WalLimits
from artstore.clock import Clock, uuid7
from artstore.contracts.files import Attributes, NewFile, decode
from artstore.errors import Unavailable

MAX_BYTES = 1 << 32
TEST_RESERVE = Reserve(bytes=1 << 20, inodes=0)


class RememberingCatalog:
    """The store's view of PostgreSQL for tests of the store alone: rows, events, and an outage at will."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Attributes, str | None]] = {}
        self.events: list[tuple[str, int, str]] = []
        self.away = False
        self.refuses: set[str] = set()
        """Files whose rows it does not take."""

    async def note(self, attributes: Attributes, *, saga_id: str | None, change: str) -> None:
        self._require_here()
        if attributes.file_id in self.refuses:
            raise RowRefused("the catalog refuses the row")
        kept = self.rows.get(attributes.file_id)
        if kept is None or kept[0].revision < attributes.revision:
            self.rows[attributes.file_id] = (attributes, saga_id)
        self.events.append((attributes.file_id, attributes.revision, change))

    async def forget(self, file_id: str, *, revision: int) -> None:
        self._require_here()
        self.rows.pop(file_id, None)
        self.events.append((file_id, revision, "delete"))

    @property
    def answers(self) -> bool:
        return not self.away

    async def find_available(self, file_ids: Sequence[str]) -> set[str]:
        self._require_here()
        return {file_id for file_id in file_ids if file_id in self.rows and self.rows[file_id][1] is None}

    async def find_entry(self, file_id: str) -> CatalogEntry | None:
        self._require_here()
        row = self.rows.get(file_id)
        return None if row is None else CatalogEntry(row[1], row[1] is None)

    def notify(self) -> None:
        pass

    def _require_here(self) -> None:
        if self.away:
            raise Unavailable("the catalog is away")


@asynccontextmanager
async def opened(
    root: Path,
    catalog: Catalog | None = None,
    *,
    segment_bytes: int = 1 << 20,
    record_change: Callable[[FileChange], Awaitable[None]] | None = None,
) -> AsyncIterator[Store]:
    settings = StoreSettings(
        element_id="se-01", root=str(root), reserve=TEST_RESERVE, wal=WalLimits(segment_bytes=segment_bytes)
    )
    async with (
        locked_root(str(root)) as paths,
        open_store(paths, settings, catalog or RememberingCatalog(), Clock(), record_change=record_change) as store,
    ):
        yield store


def new_file(name: str = "Договор №5.pdf") -> NewFile:
    return NewFile(
        filename=name,
        content_type="application/pdf",
        owner="tests",
        tags=["contract"],
        metadata={"number": "5"},
        retention="permanent",
        expires_at=None,
    )


async def chunks_of(content: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def body_of(content: bytes, *, stated: bool = True) -> Body:
    return Body(chunks_of(content), stated_bytes=len(content) if stated else None, max_bytes=MAX_BYTES)


async def put_bytes(
    store: Store, content: bytes, *, file_id: str | None = None, saga_id: str | None = None
) -> PutResult:
    order = PutOrder(file_id or str(uuid7()), new_file(), saga_id or str(uuid7()))
    return await put(store, order, body_of(content))


def files_on_disk(root: Path) -> dict[str, bytes]:
    """Every file that can be seen, checked against its attributes; anything half-visible is an error."""
    found: dict[str, bytes] = {}
    for path in sorted((root / "files").rglob("*.attr.json")):
        attributes = decode(path.read_bytes())
        assert path.name == f"{attributes.file_id}.attr.json"
        content = path.with_name(attributes.file_id).read_bytes()
        assert len(content) == attributes.size_bytes
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == attributes.checksum
        found[attributes.file_id] = content
    return found


def check_settled(root: Path, store: Store, catalog: RememberingCatalog) -> dict[str, bytes]:
    """The invariants once nothing is running: whole or absent, no temps, no orphans, nothing open, catalog = disk."""
    found = files_on_disk(root)
    data = {path.name for path in (root / "files").rglob("*") if path.is_file() and path.suffix != ".json"}
    assert data == set(found)
    assert os.listdir(root / "tmp") == []
    assert store.wal.open == {}
    assert set(catalog.rows) == set(found)
    return found
