"""Change events on Redis."""

from __future__ import annotations

from typing import Literal

import msgspec

FILES_CHANNEL = "files:changed"

ACK_CHANNEL = "files:heard"
"""A message here names a list in Redis. A process that caches files subscribes to both channels on one
connection. So when the message arrives, it has handled all events before it, which it acknowledges with a
push to that list."""
ACK_KEY_EXPIRES_S = 10

Change = Literal["put", "update", "delete"]


class FileChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Tells readers to drop what they cached of `file_id` below `revision`. Delivered at least once, in any
    order."""

    file_id: str
    revision: int
    change: Change
    storage_element_id: str
