"""Change events on Redis."""

from __future__ import annotations

from typing import Literal

import msgspec

FILES_CHANNEL = "files:changed"

HEARD_CHANNEL = "files:heard"
"""A message here is the key of a list in Redis. Who remembers files listens to both channels on one connection, so when it
comes, all events before it have been handled: a push to that list says so."""
HEARD_KEY_EXPIRES_S = 10

Change = Literal["put", "update", "delete"]


class FileChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Readers drop what they remember of `file_id` below `revision`. At least once, in any order."""

    file_id: str
    revision: int
    change: Change
    storage_element_id: str
