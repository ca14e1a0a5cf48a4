"""The attr.json of a new file and of its next revision. artstore.contracts.files has the format."""

from __future__ import annotations

import msgspec

from artstore.contracts.files import EMPTY_CHANGE, Attributes, Changes, NewFile, check_changes, decode
from artstore.errors import Conflict, InvalidFields

ABOVE_DELETE = 3
"""The revision of a file that has moved is above what the delete of the old copy announces as gone."""
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
    check_changes(changes)
    changed = {name: value for name, value in msgspec.structs.asdict(changes).items() if value is not msgspec.UNSET}
    if not changed:
        raise InvalidFields(EMPTY_CHANGE, fields=["filename", "tags", "metadata", "ttl_days"])
    if "expires_at" in changed and attributes.retention != "temporary":
        raise InvalidFields("ttl_days is allowed for temporary files only", fields=["ttl_days"])
    if target := changed.pop("moving_to", None):
        changed |= {"retention": "permanent", "expires_at": None}
        changed["unknown"] = {**attributes.unknown, "moving_to": target}
    return msgspec.structs.replace(attributes, revision=attributes.revision + 1, updated_at=now, **changed)


def moved_here(source: Attributes, *, element_id: str, now: str) -> Attributes:
    """The attributes of a file that comes from another element."""
    return msgspec.structs.replace(
        source,
        revision=source.revision + ABOVE_DELETE,
        storage_element_id=element_id,
        updated_at=now,
        unknown={name: value for name, value in source.unknown.items() if name != "moving_to"},
    )


def require_staying(attributes: Attributes, moved_to: str | None) -> None:
    """Raises Conflict for a file that moves, except for the caller that moves it, which states the target."""
    if attributes.moving_to not in (None, moved_to):
        raise Conflict(
            "the file is being made permanent: it cannot be changed any more", moving_to=attributes.moving_to
        )


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
