"""Change events on Redis."""

from __future__ import annotations

from typing import Literal

import msgspec

FILES_CHANNEL = "files:changed"

Change = Literal["put", "update", "delete"]


class FileChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Readers drop what they remember of `file_id` below `revision`. At least once, in any order."""

    file_id: str
    revision: int
    change: Change
    storage_element_id: str
