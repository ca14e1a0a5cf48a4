"""What makes two requests under one key the same: all that was asked, but for the bytes of a file.

Those are compared when an answer is given again (`replay.py`): to take them in here would mean to read a file before it is sent.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from artstore.contracts.files import Changes

from ..changes.wish import Wish
from ..uploads.body import Opened
from ..uploads.form import new_file

_THEN = datetime(2000, 1, 1, tzinfo=UTC)
"""Any moment, the same for all: an expiry then says `ttl_days`, not when it was asked."""
_UNNAMED = "00000000-0000-0000-0000-000000000000"
"""A file without a name is named by its id, which each try makes anew."""


def of_upload(opened: Opened) -> str:
    """The parsed fields: a form's boundaries and the order of its parts differ between tries. Raises InvalidFields."""
    name = _UNNAMED if opened.filename is None else opened.filename
    new = new_file(opened.fields, filename=name, content_type=opened.content_type, owner="", now=_THEN)
    return _digest("POST", "upload", msgspec.to_builtins(new))


def of_patch(wish: Wish, wanted: Changes) -> str:
    return _digest("PATCH", wish.file_id, wish.if_revisions, msgspec.to_builtins(wanted))


def of_content(wish: Wish, content_type: str | None) -> str:
    return _digest("PUT", wish.file_id, wish.if_revisions, content_type, *wish.if_checksums)


def of_delete(wish: Wish) -> str:
    return _digest("DELETE", wish.file_id, wish.if_revisions)


def _digest(*asked: Any) -> str:
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
