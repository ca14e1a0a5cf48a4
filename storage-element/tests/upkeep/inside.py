"""A store in this process with the real catalog: the element's own parts without HTTP around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import create_async_engine

from app.catalog import PostgresCatalog
from app.upkeep.rows import Rows
from artstore.database import EDGE, Database
from artstore.database_errors import DatabaseUnavailable
from artstore.peers.breaker import Breakers

from ..running import Neighbours


class NoRelay:
    """Change events stay in the outbox: nothing publishes them here."""

    def wake(self) -> None:
        pass


def confirmed() -> None:
    """Admin has accepted the root."""


@asynccontextmanager
async def inside_rows(neighbours: Neighbours) -> AsyncIterator[tuple[Rows, PostgresCatalog]]:
    engine = create_async_engine(neighbours.database_url)
    database = Database(engine, Breakers(CollectorRegistry()).to(EDGE, (DatabaseUnavailable,)))
    outbox: Any = NoRelay()
    rows = Rows(database, outbox, "se-01", confirmed)
    yield rows, PostgresCatalog(database, outbox, "se-01", confirmed)
    await engine.dispose()
