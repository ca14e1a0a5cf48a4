"""The attr.json of a new file and of its next revision. artstore.contracts.files has the format."""

from __future__ import annotations

from typing import Any

import msgspec

from artstore.contracts.files import (
    Attributes,
    Changes,
    NewFile,
    check_filename,
    check_metadata,
    check_tags,
    decode,
)
from artstore.errors import InvalidFields

UNREADABLE = b"\0unreadable"
"""Stands for an attr.json that the disk cannot read. It does not decode to attributes."""


def first_revision(
    file_id: str, new: NewFile, *, size_bytes: int, sha256: str, element_id: str, now: str
) -> Attributes:
    return Attributes(
        file_id=file_id,
        revision=1,
        filename=new.filename,
        content_type=new.content_type,
        size_bytes=size_bytes,
        checksum=f"sha256:{sha256}",
        storage_element_id=element_id,
        created_at=now,
        updated_at=now,
        owner=new.owner,
        tags=new.tags,
        metadata=new.metadata,
        retention=new.retention,
        expires_at=new.expires_at,
    )


def with_changes(attributes: Attributes, changes: Changes, *, now: str) -> Attributes:
    """The next revision. Raises InvalidFields."""
    changed: dict[str, Any] = {}
    if changes.filename is not msgspec.UNSET:
        check_filename(changes.filename)
        changed["filename"] = changes.filename
    if changes.tags is not msgspec.UNSET:
        check_tags(changes.tags)
        changed["tags"] = changes.tags
    if changes.metadata is not msgspec.UNSET:
        check_metadata(changes.metadata)
        changed["metadata"] = changes.metadata
    if not changed:
        raise InvalidFields(
            "set filename, tags or metadata: the change is empty", fields=["filename", "tags", "metadata"]
        )
    return msgspec.structs.replace(attributes, revision=attributes.revision + 1, updated_at=now, **changed)


def with_content(attributes: Attributes, *, size_bytes: int, sha256: str, content_type: str, now: str) -> Attributes:
    """The next revision, with new bytes."""
    return msgspec.structs.replace(
        attributes,
        revision=attributes.revision + 1,
        updated_at=now,
        size_bytes=size_bytes,
        checksum=f"sha256:{sha256}",
        content_type=content_type,
    )


def find_in(encoded: bytes, file_id: str) -> Attributes | None:
    """The attributes of `file_id`; None when the bytes cannot be decoded (damage) or belong to another file (a wrong name)."""
    try:
        attributes = decode(encoded)
    except (ValueError, msgspec.MsgspecError):
        return None
    return attributes if attributes.file_id == file_id else None
