"""A whole rebuild with a real PostgreSQL: python -m tests.bench.rebuild FOLDER, where tests.bench.scan has made files.

First into an empty catalog, then with everything in line already, then after one row in a hundred was lost.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from app.upkeep.journal import Journal
from app.upkeep.quarantine import FindingLog
from app.upkeep.rebuild import Rebuild, RebuildState
from app.upkeep.reconcile import Reconciler
from artstore.catalog.tables import metadata
from artstore.testing.fakes import FakeAdmin
from artstore.testing.services import PostgresServer, start_postgres, temporary_folder
from artstore.testing.tokens import Signer
from tests.running import Neighbours
from tests.store.support import opened
from tests.upkeep.inside import inside_rows

STEPS = (
    ("empty catalog", "TRUNCATE files"),
    ("all in line", ""),
    ("one in a hundred lost", "DELETE FROM files WHERE get_byte(uuid_send(file_id), 15) < 3"),
)


async def measure(root: Path, database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text("INSERT INTO registry (version) VALUES (1)"))
    neighbours = Neighbours(database_url, "", FakeAdmin(Signer()))
    async with inside_rows(neighbours) as (rows, catalog), opened(root, catalog) as store:
        journal = Journal(store.files.paths)
        found = FindingLog(store, journal)
        for what, statement in STEPS:
            if statement:
                async with engine.begin() as connection:
                    await connection.execute(text(statement))
            began_s, cpu_s = time.perf_counter(), time.process_time()
            state = RebuildState(started_at=store.now())
            await Rebuild(store, rows, Reconciler(store, rows, found, 300.0, lambda: 0.0), found, journal).run(state)
            took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
            sys.stdout.write(
                f"{what}: {state.files} files, {state.corrected} rows written, {state.files / took_s:,.0f} files/s, "
                f"{state.files / cpu_s:,.0f} per second of CPU\n"
            )
    await engine.dispose()


def main() -> None:
    with temporary_folder("artstore-bench-") as folder:
        server = start_postgres(folder)
        try:
            asyncio.run(measure_in_new_database(server))
        finally:
            server.discard()


async def measure_in_new_database(server: PostgresServer) -> None:
    await measure(Path(sys.argv[1]), server.url(await server.new_database()))


if __name__ == "__main__":
    main()
