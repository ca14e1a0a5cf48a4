"""The HTTP interface of an element for the other modules.

PUT /api/files/{id}: the body is the content; SAGA_HEADER and NEW_FILE_HEADER carry the rest. It answers 201
with attr.json, or 200 if the same saga has already put the file. GET answers with SAGA_HEADER until the
element knows that the upload is committed. DELETE with SAGA_HEADER is a compensation and allowed in every
mode. POST /api/files/{id}/copy reads the file from another element.

POST PUT_GROUP_PATH: several small files in one request, a list of GroupedPut in msgpack. It answers 200 with a list
of GroupedResult, one per file in order: each file is put, or refused, as by its own PUT. An error that concerns the
whole element (its mode, its disk) answers the whole request.

GET /api/files/contents reads the small files that FILES_HEADER names. The body is MessagePack: one FileRead,
ReadRefused or None for each id, in order. None: ask for this file alone, because it is slow to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, unquote

import msgspec
import orjson

from artstore.clock import uuid7s
from artstore.contracts.files import Attributes, NewFile, decode
from artstore.errors import BadGateway, Malformed

SMALL_FILE_BYTES = 64 << 10
"""An element writes a file up to this size into the record of its log, which saves a sync, and gives its bytes together
with those of others. Larger contents are streamed one by one."""
SAGA_HEADER = "x-artstore-saga"
ACCOUNT_HEADER = "x-artstore-account"
"""In PATCH, PUT of the content and DELETE: the id of the account that changes the file. The element records the change in
the audit log under it, so that the event exists also when its caller dies."""
CONFIRMED_REASON = "confirmed"
"""`reason` of the 409 to a compensation: the file is acknowledged, or it does not belong to this saga."""
GIVEN_UP_REASON = "given_up"
"""`reason` of the 409 to a put: the saga is being undone, so the client must upload the file again."""
NEW_FILE_HEADER = "x-artstore-file"
"""NewFile as percent-encoded JSON, because header values are ASCII."""
AT_MOST_HEADER = "x-artstore-at-most"
"""In PUT, where the length of the body is not known: an upper bound of it. An element without that much space refuses the
body before it is sent."""
MOVED_HEADER = "x-artstore-moved-to"
"""DELETE of the old copy of a file that has moved to this element; allowed in every mode."""
FILES_HEADER = "x-artstore-files"
"""Up to MAX_FILES_READ file ids, separated by commas. In a header, because parsing a long query costs more."""
MAX_FILES_READ = 64


class CopyOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /api/files/{file_id}/copy: the element reads the file from another one and puts it for the saga, as PUT does. It
    answers 201 with attr.json, or 200 if the saga has put the file already."""

    saga_id: str
    source_id: str
    source_url: str
    token: str
    """Allows to read at the source, and nothing else."""
    record: msgspec.Raw
    """attr.json of the source."""


class FileRead(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """One revision of a file: attr.json, and its bytes unless they are larger than SMALL_FILE_BYTES."""

    record: bytes
    content: bytes | None
    unconfirmed: bool
    """The element does not know yet that the upload is committed."""


class ReadRefused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """An error about one file, as `to_wire` writes it."""

    status: int
    problem: bytes


_READS = msgspec.msgpack.Decoder(list[FileRead | ReadRefused | None])


def encode_reads(reads: Sequence[FileRead | ReadRefused | None]) -> bytes:
    return msgspec.msgpack.encode(reads)


def decode_reads(body: bytes) -> list[FileRead | ReadRefused | None]:
    """Raises msgspec.DecodeError."""
    return _READS.decode(body)


PUT_GROUP_PATH = "/api/files/put-group"
PUT_GROUP_TYPE = "application/octet-stream"
MAX_PUT_GROUP = 128
"""Files of one request."""
MAX_PUT_GROUP_BYTES = 4 << 20
"""The whole request: 32 files of SMALL_FILE_BYTES with descriptions of up to 64 KiB, or a MiB of contents with
MAX_PUT_GROUP descriptions of up to 24 KiB. Larger files are streamed alone."""


class GroupedPut(msgspec.Struct, frozen=True, array_like=True):
    """One file of a group. The digests are those that the client stated, as raw bytes. `request_id` and `trace` are
    those of the client's request: the request between the modules belongs to several."""

    file_id: str
    saga_id: str
    new: NewFile
    content: bytes
    sha256: bytes | None
    md5: bytes | None
    request_id: str
    trace: dict[str, str]
    settle_late: bool = False
    """The commit follows at once, and no reader knows the id before it: the element may answer before it has written the
    catalog row."""


def ids_in_one_folder(count: int) -> list[str]:
    """New ids that end with the same two bytes, after which an element names a file's folder. Files that are put together then
    share it, which saves making, finding and syncing `count` folders."""
    ids = uuid7s(count)
    return [one[:-4] + ids[0][-4:] for one in ids]


class GroupedResult(msgspec.Struct, frozen=True, array_like=True):
    """The status and the body that a PUT of the file alone would be answered with: attr.json or a problem document."""

    status: int
    body: bytes


_puts = msgspec.msgpack.Decoder(list[GroupedPut])
_results = msgspec.msgpack.Decoder(list[GroupedResult])
encode_group = msgspec.msgpack.Encoder().encode


def decode_puts(body: bytes) -> Sequence[GroupedPut]:
    """Raises Malformed."""
    try:
        puts = _puts.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Malformed(f"the group of files cannot be read: {error}") from error
    if not 0 < len(puts) <= MAX_PUT_GROUP:
        raise Malformed(f"a group must have 1 to {MAX_PUT_GROUP} files")
    return puts


def decode_results(body: bytes, count: int) -> Sequence[GroupedResult]:
    """Raises BadGateway unless there are `count` results."""
    try:
        results = _results.decode(body)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadGateway(f"the results of a group of files cannot be read: {error}") from error
    if len(results) != count:
        raise BadGateway(f"{count} files were put and {len(results)} results answered")
    return results


def read_attributes(encoded: bytes, element_id: str) -> Attributes:
    """attr.json as an element answered it. Raises BadGateway for anything else, also for a later schema version."""
    try:
        return decode(encoded)
    except ValueError as error:
        raise BadGateway(f"the attributes from {element_id} cannot be read: {error}") from error


def encode_new_file(new: NewFile) -> str:
    """The value of NEW_FILE_HEADER."""
    return quote(orjson.dumps(msgspec.to_builtins(new)), safe=" !#$&'()*+,/:;<=>?@[]^_`{|}~\"")


def decode_new_file(value: str) -> NewFile:
    """The NewFile in a header value. Raises Malformed."""
    try:
        return msgspec.json.decode(unquote(value, errors="strict").encode(), type=NewFile)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Malformed(f"{NEW_FILE_HEADER} cannot be read: {error}") from error
