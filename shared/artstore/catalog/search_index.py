"""Fills `file_search` from the change feed, behind the commits of uploads, so that an upload does not pay for it.

The position in the feed is stored in the transaction that writes the index, so a crash neither skips nor loses a
change, and every step may be repeated. Where the feed cannot be continued (a new index, a restored catalog, changes
that were purged before they were read), all rows of the catalog are walked through once, in batches.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.words import grams_of, texts_of, words_of
from artstore.database import Database

BATCH_ROWS = 500
PAUSE_S = 0.02
"""Between two batches, so that uploads find free processor time: at most some 20 000 rows a second."""
FIRST = "00000000-0000-0000-0000-000000000000"

# Set back (the catalog was restored into another server) or passed by the purge, the position has no rows after it.
_BEHIND = """SELECT 1 FROM search_progress AS done, changes_purged AS purged
    WHERE done.walked_to IS NOT NULL
    OR (done.txid, done.position) < (purged.txid, purged.position)
    OR done.txid >= CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)
    OR EXISTS (SELECT FROM changes WHERE (changes.txid, changes.position) > (done.txid, done.position))"""
# One admin works at a time; the others find no row.
_PROGRESS = text(
    """SELECT done.txid, done.position, walked_to::text, purged.txid AS purged_txid, purged.position AS purged_position,
        CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next_txid
    FROM search_progress AS done, changes_purged AS purged FOR UPDATE OF done SKIP LOCKED"""
)
_CHANGED = text(
    """SELECT txid, position, file_id::text FROM changes WHERE (txid, position) > (:txid, :position)
    AND txid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
    ORDER BY txid, position LIMIT :batch"""
)
_FILES = text(
    """SELECT file_id::text, revision, created_at, filename, tags, CAST(metadata AS text) AS metadata FROM files
    WHERE file_id = ANY(CAST(:ids AS uuid[])) AND state = 'available'"""
)
_WALK = text(
    """SELECT files.file_id::text, files.revision, files.created_at, filename, tags,
        CAST(metadata AS text) AS metadata, indexed.revision AS indexed
    FROM files LEFT JOIN file_search AS indexed ON indexed.file_id = files.file_id
    WHERE files.file_id > CAST(:walked_to AS uuid) AND files.state = 'available' ORDER BY files.file_id LIMIT :batch"""
)
_WRITE = text(
    """INSERT INTO file_search AS kept (file_id, revision, words, name_grams, created_at)
    SELECT file_id, revision, to_tsvector('artstore', array_to_string(words, ' ')) || array_to_tsvector(words), name_grams,
        created_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS entry(file_id uuid, revision integer, words text[], name_grams integer[], created_at timestamptz)
    ON CONFLICT (file_id) DO UPDATE
    SET revision = excluded.revision, words = excluded.words, name_grams = excluded.name_grams,
        created_at = excluded.created_at
    WHERE kept.revision <> excluded.revision"""
)
_REMOVE = text("DELETE FROM file_search WHERE file_id = ANY(CAST(:ids AS uuid[]))")
_STORE = text(
    "UPDATE search_progress SET txid = :txid, position = :position, walked_to = CAST(CAST(:walked_to AS text) AS uuid)"
)


async def update_index(database: Database) -> int:
    """Index all that has changed, and walk on if rows remain. Returns the number of files that were looked at.

    Raises Unavailable.
    """
    total = 0
    while await is_behind(database):
        async with database.begin(durable=False) as connection:
            done = await _update_batch(connection)
        if not done:  # another admin works, or a transaction that is still open holds the feed back
            break
        total += done
        await asyncio.sleep(PAUSE_S)
    return total


async def is_behind(database: Database) -> bool:
    return bool(await database.fetch(_BEHIND))


async def _update_batch(connection: AsyncConnection) -> int:
    progress = (await connection.execute(_PROGRESS)).one_or_none()
    if progress is None:
        return 0
    txid, position, walked_to = progress.txid, progress.position, progress.walked_to
    if txid >= progress.next_txid:  # the catalog was restored into another server
        txid, position, walked_to = 0, 0, FIRST
    elif (txid, position) < (progress.purged_txid, progress.purged_position):
        txid, position, walked_to = progress.purged_txid, progress.purged_position, FIRST
    changed = (await connection.execute(_CHANGED, {"txid": txid, "position": position, "batch": BATCH_ROWS})).all()
    if changed:
        await _index_files(connection, list({row.file_id for row in changed}))
        txid, position = changed[-1].txid, changed[-1].position
    walked: Sequence[Row[Any]] = ()
    if walked_to is not None and len(changed) < BATCH_ROWS:
        walked = (await connection.execute(_WALK, {"walked_to": walked_to, "batch": BATCH_ROWS})).all()
        await _write(connection, [row for row in walked if row.indexed != row.revision])
        walked_to = walked[-1].file_id if len(walked) == BATCH_ROWS else None
    if (txid, position, walked_to) != (progress.txid, progress.position, progress.walked_to):
        await connection.execute(_STORE, {"txid": txid, "position": position, "walked_to": walked_to})
    return len(changed) + len(walked)


async def _index_files(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Brings these files to their present state, which may be later than the change that led here."""
    rows = (await connection.execute(_FILES, {"ids": ids})).all()
    await _write(connection, rows)
    gone = set(ids).difference(row.file_id for row in rows)
    if gone:
        await connection.execute(_REMOVE, {"ids": list(gone)})


async def _write(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> None:
    if rows:
        await connection.execute(_WRITE, {"rows": orjson.dumps([_entry(row) for row in rows]).decode()})


def _entry(row: Row[Any]) -> dict[str, Any]:
    metadata = json.loads(row.metadata, parse_int=str, parse_float=str)  # every digit as it was sent
    words = [word for part in texts_of(row.filename, row.tags, metadata) for word in words_of(part)]
    return {
        "file_id": row.file_id,
        "revision": row.revision,
        "words": words,
        "name_grams": grams_of(row.filename),
        "created_at": row.created_at,
    }
