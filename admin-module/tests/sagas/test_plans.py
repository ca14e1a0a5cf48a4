"""Statements that a connection planned while the tables were empty or small read no whole table when these have grown.

PostgreSQL plans them again only when it has new statistics, a minute later at the earliest.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tests.test_purge import upgrade

from app.sagas.idempotency import keep_answer, require_key
from app.sagas.upload import Abort, Commit, UploadSagas
from artstore.catalog.find import find_files
from artstore.catalog.search_index import _index_files
from artstore.catalog.write import FileEntry, delete_files, write_files
from artstore.clock import Clock, uuid7
from artstore.contracts.events import FileChanged
from artstore.contracts.files import Attributes
from artstore.contracts.idempotency import Answer
from artstore.contracts.sagas import UploadSaga
from artstore.database import Database
from artstore.metrics import new_registry
from artstore.outbox import _DONE
from artstore.peers.breaker import Breakers
from artstore.testing.fakes import new_file
from artstore.testing.services import PostgresServer

ROWS = 20_000
ELEMENT = "se-01"
NUMBERS = "generate_series(1, CAST(:rows AS integer)) AS n"
PLANNED_AFTER = 7
"""Executions of a statement after which PostgreSQL has chosen between one plan for all values and one for each."""
FILL = {
    "sagas": f"""INSERT INTO sagas (saga_id, kind, state, file_id, storage_element_id, owner)
        SELECT gen_random_uuid(), 'upload', 'committed', gen_random_uuid(), 'se-01', 'owner' FROM {NUMBERS}""",
    "idempotency_keys": f"""INSERT INTO idempotency_keys (client_id, key, fingerprint, saga_id, held_until)
        SELECT 'client', gen_random_uuid()::text, 'f', gen_random_uuid(), now() FROM {NUMBERS}""",
    "files": f"""INSERT INTO files (file_id, revision, state, storage_element_id, attributes, filename, content_type,
            size_bytes, owner, tags, metadata, created_at, updated_at, checked_at)
        SELECT gen_random_uuid(), 1, 'available', 'se-01', '{{}}', 'name', 'text/plain', 1, 'owner', '{{}}', '{{}}',
            now(), now(), now() FROM {NUMBERS}""",
    "file_search": f"""INSERT INTO file_search (file_id, revision, words, name_grams, created_at, updated_at, filename,
            size_bytes)
        SELECT gen_random_uuid(), 1, array_to_tsvector(ARRAY[md5(n::text), md5((n + 1)::text)]), '{{}}', now(), now(),
            'name', 1 FROM {NUMBERS}""",
    "outbox": f"INSERT INTO outbox (channel, message) SELECT 'files', '{{}}' FROM {NUMBERS}",
}
ADD_KEY = """INSERT INTO idempotency_keys (client_id, key, fingerprint, saga_id, held_until)
    VALUES ('client', $1::text, 'f', ($1::text)::uuid, now())"""
READ = text("SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname = ANY(:names)")


def saga() -> UploadSaga:
    return UploadSaga(saga_id=str(uuid7()), file_id=str(uuid7()), storage_element_id=ELEMENT, owner="owner")


def file_of(one: UploadSaga) -> Attributes:
    return new_file(b"content", file_id=one.file_id, storage_element_id=ELEMENT)


class Statements:
    """Each method runs one statement for an upload whose rows `prepare` has added, and for one without rows."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sagas = UploadSagas(database, Clock(), lease_s=60, undo=lambda: None)

    async def prepare(self) -> None:
        self.one, self.other = saga(), saga()
        await self.database.fetch(ADD_KEY, self.one.saga_id)
        await self.sagas.begin([self.one])
        await write_files(self.database, [FileEntry(file_of(self.one), "put")], durable=False)

    async def begin(self) -> None:
        await self.sagas.begin([self.one, self.other])

    async def commit(self) -> None:
        await self.sagas.commit([Commit(each.saga_id, file_of(each)) for each in (self.one, self.other)])

    async def commit_keyed(self) -> None:
        commits = [Commit(each.saga_id, file_of(each), keyed=True) for each in (self.one, self.other)]
        await self.sagas.commit(commits)

    async def abort(self) -> None:
        await self.sagas.abort(Abort([self.one, self.other], "test"))

    async def states(self) -> None:
        await self.sagas._states_of([self.one.saga_id, self.other.saga_id])

    async def key(self) -> None:
        async with self.database.begin() as connection:
            assert await require_key(connection, self.one.saga_id) is None
            await keep_answer(connection, self.one.saga_id, Answer(status=201, headers={}))

    async def write(self) -> None:
        changed = replace(file_of(self.one), revision=2)
        await write_files(self.database, [FileEntry(changed, "update")], durable=False)

    async def find(self) -> None:
        async with self.database.begin() as connection:
            await find_files(connection, [self.one.file_id, self.other.file_id])

    async def index(self) -> None:
        async with self.database.begin() as connection:
            await _index_files(connection, [self.one.file_id, self.other.file_id])

    async def delete(self) -> None:
        gone = [
            FileChanged(file_id=each.file_id, revision=1, change="delete", storage_element_id=ELEMENT)
            for each in (self.one, self.other)
        ]
        async with self.database.begin() as connection:
            await delete_files(connection, gone)

    async def published(self) -> None:
        await self.database.fetch(_DONE, [1, 2])


NAMES = [name for name in vars(Statements) if not name.startswith("_") and name != "prepare"]


@pytest.mark.parametrize("rows", [0, 300], ids=["empty", "small"])
async def test_a_connection_reads_no_whole_table_after_it_has_grown(postgres: PostgresServer, rows: int) -> None:
    engine = create_async_engine(postgres.url(await postgres.new_database()), pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
        for table, statement in FILL.items():
            await connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))
            await connection.execute(text(statement), {"rows": rows})
            if rows:
                await connection.execute(text(f"ANALYZE {table}"))
    statements = Statements(Database(engine, Breakers(new_registry()).to("postgresql", ())))
    for _ in range(PLANNED_AFTER):
        for name in NAMES:
            await statements.prepare()
            await getattr(statements, name)()
    async with engine.begin() as connection:
        for statement in FILL.values():
            await connection.execute(text(statement), {"rows": ROWS})
    read = {}
    for name in NAMES:
        await statements.prepare()
        before = await rows_read(engine)
        await getattr(statements, name)()
        read[name] = await rows_read(engine) - before
    await engine.dispose()
    assert {name: number for name, number in read.items() if number > ROWS // 2} == {}


async def rows_read(engine: AsyncEngine) -> int:
    """Rows that sequential scans have read so far."""
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_stat_force_next_flush()"))
    async with engine.begin() as connection:
        return int(await connection.scalar(READ, {"names": list(FILL)}) or 0)
