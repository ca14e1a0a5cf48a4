"""The HTTP interface of an element for the other modules.

PUT /api/files/{id}: the body is the content; SAGA_HEADER and NEW_FILE_HEADER carry the rest. It answers 201
with attr.json, or 200 if the same saga has already put the file. GET answers with SAGA_HEADER until the
element knows that the upload is committed. DELETE with SAGA_HEADER is a compensation and allowed in every
mode.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

import msgspec
import orjson

from artstore.contracts.files import Attributes, NewFile, decode
from artstore.errors import BadGateway, Malformed

SMALL_FILE_BYTES = 64 << 10
"""An element writes a file up to this size into the record of its log, which saves a sync."""
SAGA_HEADER = "x-artstore-saga"
CONFIRMED_REASON = "confirmed"
"""`reason` of the 409 to a compensation: the file is acknowledged, or it does not belong to this saga."""
GIVEN_UP_REASON = "given_up"
"""`reason` of the 409 to a put: the saga is being undone, so the client must upload the file again."""
NEW_FILE_HEADER = "x-artstore-file"
"""NewFile as percent-encoded JSON, because header values are ASCII."""


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
