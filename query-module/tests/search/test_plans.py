"""Every statement of a list among 200 000 files uses an index: the plans are those of PostgreSQL for the real statements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.search.parse import parse
from app.search.search import search
from artstore.catalog.tables import metadata
from artstore.database import Database
from artstore.peers.breaker import Breakers
from artstore.testing.many_files import COMMON, fill_catalog, rare_words
from artstore.testing.services import PostgresServer

ROWS = 200_000
RARE = rare_words()[5000]


@pytest.fixture(scope="module")
async def engine(postgres: PostgresServer) -> AsyncIterator[AsyncEngine]:
    url = postgres.url(await postgres.new_database())
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await fill_catalog(url, ROWS, 2_000)
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("sort", ["-created_at", "updated_at", "filename", "-size_bytes"])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"q": COMMON[0]},
        {"q": RARE},
        {"q": f"{RARE} {COMMON[0]}"},
        {"q": f'"{COMMON[0]} {RARE}" -{COMMON[1]}'},
        {"q": f"{COMMON[0]} zz"},
        {"filename": "№17"},
        {"filename": "zzz"},
        {"tag": RARE},
        {"metadata.number": "17"},
        {"owner": "owner-7", "q": RARE},
        {"content_type": "text/plain", "filename": "№17."},
        {"q": COMMON[0], "owner": "owner-7", "content_type": "text/plain"},
        {"q": COMMON[1], "tag": COMMON[0], "filename": COMMON[2]},
        {"q": COMMON[0], "metadata.number": "17"},
        {"q": f"{RARE} {COMMON[0][0]}"},
        {"tag": COMMON[0], "owner": "owner-7"},
        {"metadata.approved": "true", "content_type": "image/jpeg"},
        {"filename": COMMON[0][1:], "size_min": "1000000"},
        {"owner": "owner-7", "content_type": "image/jpeg", "created_from": "2026-01-02T00:00:00Z"},
    ],
)
async def test_a_page_reads_no_whole_table(engine: AsyncEngine, parameters: dict[str, str], sort: str) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        asked.append((statement, values))

    database = Database(engine, Breakers(CollectorRegistry()).to("postgresql", ()))
    first = await search(database, parse([*parameters.items(), ("sort", sort)]))
    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        cursor = [("cursor", first.next_cursor)] if first.next_cursor else []
        await search(database, parse([*parameters.items(), ("sort", sort), *cursor]))
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)
    asked = [(statement, values) for statement, values in asked if not statement.startswith("EXPLAIN")]
    assert len(asked) >= 2
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        for statement, values in asked:
            assert not statement.startswith("WITH")
            assert "now()" not in statement or "search_progress" in statement
            plan = "\n".join(row[0] for row in await driver.fetch(f"EXPLAIN {statement}", *values))
            for table in ("files", "file_search", "changes"):
                assert f"Seq Scan on {table}" not in plan, f"{statement}\n{plan}"
