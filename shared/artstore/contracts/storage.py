"""How the other modules speak to an element over HTTP.

PUT /api/files/{id}: the body is the file's bytes; SAGA_HEADER and NEW_FILE_HEADER say the rest; 201 with attr.json, or 200
with it when the same saga has put the file already. GET answers with SAGA_HEADER while the element has not seen the upload
committed. DELETE with SAGA_HEADER is a compensation and allowed in every mode.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

import msgspec
import orjson

from artstore.contracts.files import NewFile
from artstore.errors import Malformed

SAGA_HEADER = "x-artstore-saga"
CONFIRMED_REASON = "confirmed"
"""`reason` of the 409 to a compensation: the element holds the file as acknowledged, or not as one of this saga."""
GIVEN_UP_REASON = "given_up"
"""`reason` of the 409 to a put: its saga is being undone, so the client sends the file again as a new upload."""
NEW_FILE_HEADER = "x-artstore-file"
"""NewFile as percent-encoded JSON: header values are ASCII."""


def encode_new_file(new: NewFile) -> str:
    return quote(orjson.dumps(msgspec.to_builtins(new)), safe=" !#$&'()*+,/:;<=>?@[]^_`{|}~\"")


def decode_new_file(value: str) -> NewFile:
    """Raises Malformed."""
    try:
        return msgspec.json.decode(unquote(value, errors="strict").encode(), type=NewFile)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Malformed(f"{NEW_FILE_HEADER} cannot be read: {error}") from error
