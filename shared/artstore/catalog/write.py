"""Writes catalog rows in groups, with the events in the outbox that they need, in one transaction.

A row is only written over a lower revision (or over the same one, which changes only its state), so every
call may be repeated and may come late.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.catalog.tables import AVAILABLE, PENDING
from artstore.contracts.events import FILES_CHANNEL, Change, FileChanged
from artstore.contracts.files import Attributes, encode
from artstore.contracts.media_type import canonical_type
from artstore.database import Database
from artstore.database_errors import sqlstate_of
from artstore.errors import InvalidFields

ROW_ERROR_CLASSES = frozenset({"21", "22", "23", "54"})
"""SQLSTATE classes that depend on the rows of a statement, and say nothing about the next statement."""


def row_fault(error: Exception) -> str | None:
    """The reason if a group cannot be written because of one of its rows, else None.

    The caller then splits the group in halves, so that a row that PostgreSQL does not accept delays no other.
    """
    if isinstance(error, InvalidFields | TypeError | ValueError):
        return str(error)
    if sqlstate_of(error)[:2] not in ROW_ERROR_CLASSES:
        return None
    refusal = error.orig if isinstance(error, DBAPIError) else error
    return str(refusal).partition("\n")[0]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file as stored on disk. `saga_id` is set while its upload saga is open; the row is then `pending`."""

    attributes: Attributes
    change: Change
    saga_id: str | None = None


# One call for the whole group: the rows are one JSON document, which the server parses, so there is no per-row protocol,
# and the plan does not depend on their number. A function, so that no statement on `files` has a part that writes another
# table. $2: the commit is durable when it returns.
_UPSERT = "SELECT write_files($1::jsonb, $2::boolean, $3::text, $4::jsonb)"

# For each row: a join with the ids would be planned once per connection, see artstore.catalog.find.
_DELETE = text("DELETE FROM files WHERE file_id = CAST(:file_id AS uuid) AND storage_element_id = :storage_element_id")

# For files that an element has just answered for.
_REFILL = text("SELECT CAST(file_id AS text) FROM refill_files(CAST(:entries AS jsonb)) AS file_id")
_TAKE_BACK = text("SELECT take_back_refilled(CAST(:gone AS jsonb))")

_NOTIFY = text(
    """
    INSERT INTO outbox (channel, message)
    SELECT :channel, message FROM jsonb_array_elements_text(CAST(:messages AS jsonb)) AS message
    """
)


async def upsert_files(
    connection: AsyncConnection, entries: Sequence[FileEntry], *, durable: bool = True, publish: bool = True
) -> None:
    """Inserts or updates rows. With `publish` each gets an event, if it `invalidates`; set it to False if readers need
    no notice.

    `durable=False` lets the commit of the transaction return before it is on PostgreSQL's disk.
    """
    if entries:
        statement, *values = _upsert(entries, durable, publish)
        await connection.exec_driver_sql(statement, tuple(values))


async def write_files(database: Database, entries: Sequence[FileEntry], *, durable: bool) -> bool:
    """`upsert_files` in a transaction of its own, in one round trip. True when there are events to publish."""
    await database.fetch(*_upsert(entries, durable, publish=True))
    return any(map(invalidates, entries))


def invalidates(entry: FileEntry) -> bool:
    """True if readers may have cached something older. Before a first revision they can only have cached, for seconds,
    that no such file exists; and no client knows an id that the ingester makes before its upload is answered."""
    return entry.attributes.revision > 1


def _upsert(entries: Sequence[FileEntry], durable: bool, publish: bool) -> tuple[str, *tuple[Any, ...]]:
    rows = orjson.dumps([row_of(entry) for entry in entries]).decode()
    messages = [_message(entry) for entry in entries if publish and invalidates(entry)]
    return _UPSERT, rows, durable, FILES_CHANNEL, orjson.dumps(messages).decode() if messages else None


async def delete_files(connection: AsyncConnection, gone: Sequence[FileChanged]) -> None:
    """Deletes the rows of deleted files and publishes the events. Only rows that point to the element in the
    event are deleted."""
    if not gone:
        return
    pairs = {(event.file_id, event.storage_element_id) for event in gone}
    rows = [{"file_id": file_id, "storage_element_id": element_id} for file_id, element_id in sorted(pairs)]
    await connection.execute(_DELETE, rows)
    await notify(connection, FILES_CHANNEL, [msgspec.json.encode(event).decode() for event in gone])


async def notify(connection: AsyncConnection, channel: str, messages: Sequence[str]) -> None:
    """Adds messages that are published on `channel` after the commit; an outage of Redis delays them."""
    await connection.execute(_NOTIFY, {"channel": channel, "messages": orjson.dumps(list(messages)).decode()})


def _message(entry: FileEntry) -> str:
    attributes = entry.attributes
    event = FileChanged(
        file_id=attributes.file_id,
        revision=attributes.revision,
        change=entry.change,
        storage_element_id=attributes.storage_element_id,
    )
    return msgspec.json.encode(event).decode()


def row_of(entry: FileEntry) -> dict[str, Any]:
    state = PENDING if entry.saga_id else AVAILABLE
    return {**columns_of(entry.attributes), "state": state, "saga_id": entry.saga_id}


def columns_of(attributes: Attributes) -> dict[str, Any]:
    """The columns of `files` that follow from attr.json."""
    return {
        "file_id": attributes.file_id,
        "revision": attributes.revision,
        "storage_element_id": attributes.storage_element_id,
        "attributes": encode(attributes).decode(),
        "filename": _compose(attributes.filename),
        "content_type": _normalize_type(attributes.content_type),
        "size_bytes": attributes.size_bytes,
        "owner": attributes.owner,
        "tags": [_compose(tag) for tag in attributes.tags],
        "metadata": _compose_all(attributes.metadata),
        "created_at": attributes.created_at,
        "updated_at": attributes.updated_at,
        "expires_at": attributes.expires_at,
    }


# Searched columns hold text in composed form (NFC), as searches do; `attributes` holds the text as it was sent.
def _compose(text_: str) -> str:
    return text_ if text_.isascii() else unicodedata.normalize("NFC", text_)


def _compose_all(value: Any) -> Any:
    if isinstance(value, str):
        return _compose(value)
    if isinstance(value, dict):
        return {_compose(key): _compose_all(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_compose_all(inner) for inner in value]
    return value


def _normalize_type(content_type: str) -> str:
    """Accepts any text, which an attr.json of an earlier version or one edited by hand can hold."""
    try:
        return canonical_type(content_type)
    except InvalidFields:
        return content_type.lower()


async def refill(connection: AsyncConnection, files: Sequence[Attributes]) -> set[str]:
    """Adds missing rows, updates the date of existing ones, and raises those of a lower revision, each with
    an event. Returns the ids of the added rows."""
    entries = orjson.dumps([columns_of(attributes) for attributes in files]).decode()
    return set((await connection.execute(_REFILL, {"entries": entries})).scalars())


async def take_back(connection: AsyncConnection, files: Sequence[Attributes]) -> int:
    """Removes rows that `refill` added in the last ten minutes and that were not changed since. Returns their
    number."""
    gone = [
        {"file_id": one.file_id, "revision": one.revision, "storage_element_id": one.storage_element_id}
        for one in files
    ]
    removed: int = await connection.scalar(_TAKE_BACK, {"gone": orjson.dumps(gone).decode()})
    return removed
