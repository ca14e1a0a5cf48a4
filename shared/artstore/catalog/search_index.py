"""Fills `file_search` from the change feed, behind the commits of uploads, so that an upload does not pay for it.

The position in the feed is stored in the transaction that writes the index, so a crash neither skips nor loses a
change, and every step may be repeated. Where the feed cannot be continued (a new index, a restored catalog, changes
that were purged before they were read), all rows of the catalog are walked through once, in batches.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.words import BOUNDARY, grams_of, terms_of, words_of_file
from artstore.database import Database
from artstore.failpoints import failpoint

BATCH_ROWS = 500
SLICE_ROWS = 50
"""The words of so many files are made without a break, 2 ms of Python; requests are served between two slices."""
PAUSE_S = 0.02
"""Between two batches while no files change: at most some 20 000 rows a second."""
YIELD_FACTOR = 7
"""While files change, the pause after a batch is so many times as long as the batch took: uploads come first, and each
admin spends at most an eighth of the time on the index."""
MAX_PAUSE_S = 5.0
"""After a batch that was slow because PostgreSQL hung."""
FIRST = "00000000-0000-0000-0000-000000000000"

WORDS_VECTOR = f"""ts_delete(to_tsvector('artstore', words), '{BOUNDARY}')
        || array_to_tsvector(array_remove(string_to_array(words, ' '), '{BOUNDARY}') || string_to_array(terms, ' '))"""
"""The indexed form of `words`, which are those of `words_of_file`, and of `terms`, which are those of `terms_of`. A deleted
boundary leaves a gap in the positions."""

# Set back (the catalog was restored into another server) or passed by the purge, the position has no rows after it.
_BEHIND = """SELECT 1 FROM search_progress AS done, changes_purged AS purged
    WHERE done.walked_to IS NOT NULL
    OR (done.txid, done.position) < (purged.txid, purged.position)
    OR done.txid >= CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint)
    OR EXISTS (SELECT FROM changes WHERE (changes.txid, changes.position) > (done.txid, done.position))"""
# One admin works at a time; the others find no row.
_PROGRESS = text(
    """SELECT done.txid, done.position, walked_to::text, purged.txid AS purged_txid, purged.position AS purged_position,
        CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next_txid,
        COALESCE((SELECT at > now() - interval '2 s' FROM changes ORDER BY txid DESC, position DESC LIMIT 1), false) AS busy
    FROM search_progress AS done, changes_purged AS purged FOR UPDATE OF done SKIP LOCKED"""
)
_CHANGED = text(
    """SELECT txid, position, file_id::text FROM changes WHERE (txid, position) > (:txid, :position)
    AND txid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)
    ORDER BY txid, position LIMIT :batch"""
)
_COLUMNS = """files.file_id::text, files.revision, files.created_at, files.updated_at, files.filename, files.size_bytes,
        files.owner, files.content_type, files.tags, CAST(files.metadata AS text) AS metadata"""
# Not `file_id = ANY(:ids)`: see artstore.catalog.find.
_FILES = text(
    f"""SELECT found.* FROM unnest(CAST(:ids AS uuid[])) AS wanted(file_id) CROSS JOIN LATERAL (
        SELECT {_COLUMNS}, files.state FROM files WHERE files.file_id = wanted.file_id LIMIT 1) AS found
    WHERE found.state = 'available'"""
)
_WALK = text(
    f"""SELECT {_COLUMNS}, indexed.revision AS indexed
    FROM files LEFT JOIN file_search AS indexed ON indexed.file_id = files.file_id AND indexed.size_bytes >= 0
    WHERE files.file_id > CAST(:walked_to AS uuid) AND files.state = 'available' ORDER BY files.file_id LIMIT :batch"""
)
_WRITE = text(
    f"""INSERT INTO file_search AS kept
        (file_id, revision, words, name_grams, created_at, updated_at, filename, size_bytes)
    SELECT CAST(file_id AS uuid), revision, {WORDS_VECTOR}, CAST(name_grams AS integer[]), created_at, updated_at,
        filename, size_bytes
    FROM unnest(CAST(:ids AS text[]), CAST(:revisions AS integer[]), CAST(:words AS text[]), CAST(:terms AS text[]),
        CAST(:grams AS text[]), CAST(:created AS timestamptz[]), CAST(:updated AS timestamptz[]), CAST(:names AS text[]),
        CAST(:sizes AS bigint[]))
        AS entry(file_id, revision, words, terms, name_grams, created_at, updated_at, filename, size_bytes)
    ON CONFLICT (file_id) DO UPDATE
    SET revision = excluded.revision, words = excluded.words, name_grams = excluded.name_grams,
        created_at = excluded.created_at, updated_at = excluded.updated_at, filename = excluded.filename,
        size_bytes = excluded.size_bytes
    WHERE kept.revision <> excluded.revision OR kept.size_bytes < 0"""
)
_REMOVE = text("DELETE FROM file_search WHERE file_id = CAST(:id AS uuid)")
_STORE = text(
    "UPDATE search_progress SET txid = :txid, position = :position, walked_to = CAST(CAST(:walked_to AS text) AS uuid)"
)
_LAG = """SELECT greatest(0, extract(epoch FROM now() - CASE WHEN done.walked_to IS NULL
        THEN (SELECT at FROM changes WHERE (changes.txid, changes.position) > (done.txid, done.position)
            ORDER BY txid, position LIMIT 1)
        ELSE (SELECT created_at FROM files WHERE file_id > done.walked_to ORDER BY file_id LIMIT 1) END))::float8 AS lag_s
    FROM search_progress AS done"""


async def update_index(database: Database) -> int:
    """Index all that has changed, and walk on if rows remain. Returns the number of files that were looked at.

    Raises Unavailable.
    """
    total = 0
    while await is_behind(database):
        began_s = time.monotonic()
        async with database.begin(durable=False) as connection:
            done, busy = await _update_batch(connection)
        total += done
        if done < BATCH_ROWS:  # all is done, another admin works, or an open transaction holds the feed back
            break
        took_s = time.monotonic() - began_s
        await asyncio.sleep(min(max(PAUSE_S, YIELD_FACTOR * took_s), MAX_PAUSE_S) if busy else PAUSE_S)
    return total


async def is_behind(database: Database) -> bool:
    return bool(await database.fetch(_BEHIND))


async def measure_lag_s(database: Database) -> float:
    """The age of the oldest change that the index lacks, or of the oldest file that the walk has not reached; 0 if
    nothing is missing."""
    ((lag_s,),) = await database.fetch(_LAG)
    return float(lag_s)


async def _update_batch(connection: AsyncConnection) -> tuple[int, bool]:
    """The number of changes and files that were looked at, and whether files changed in the last seconds."""
    progress = (await connection.execute(_PROGRESS)).one_or_none()
    if progress is None:
        return 0, False
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
    return len(changed) + len(walked), progress.busy


async def _index_files(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Brings these files to their present state, which may be later than the change that led here."""
    rows = (await connection.execute(_FILES, {"ids": ids})).all()
    await _write(connection, rows)
    gone = set(ids).difference(row.file_id for row in rows)
    if gone:
        await connection.execute(_REMOVE, [{"id": file_id} for file_id in sorted(gone)])


async def _write(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> None:
    if not rows:
        return
    words, terms, grams = [], [], []
    for at in range(0, len(rows), SLICE_ROWS):
        await asyncio.sleep(0)
        for row in rows[at : at + SLICE_ROWS]:
            metadata = json.loads(row.metadata, parse_int=str, parse_float=str)  # every digit as it was sent
            words.append(words_of_file(row.filename, row.tags, metadata))
            terms.append(" ".join(terms_of(row.owner, row.content_type, row.tags)))
            grams.append(f"{{{','.join(map(str, grams_of(row.filename)))}}}")
    values = {
        "ids": [row.file_id for row in rows],
        "revisions": [row.revision for row in rows],
        "words": words,
        "terms": terms,
        "grams": grams,
        "created": [row.created_at for row in rows],
        "updated": [row.updated_at for row in rows],
        "names": [row.filename for row in rows],
        "sizes": [row.size_bytes for row in rows],
    }
    await connection.execute(_WRITE, values)
    failpoint("admin.index_written")
