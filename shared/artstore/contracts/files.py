"""A file's attributes: the content of attr.json, of responses about a file, and of the catalog.

`Attributes` is frozen. `decode` and `encode` are the only conversions, and preserve fields that this version
does not know.
"""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import timedelta
from typing import Any, Literal

import msgspec
import orjson

from artstore.clock import is_rfc3339, parse_rfc3339
from artstore.contracts.media_type import canonical_type
from artstore.errors import InvalidFields

SCHEMA_VERSION = 1
MAX_ATTRIBUTES_BYTES = 4096
"""attr.json fits into one disk block, so it is written with one write."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors write it at the start of a file; it is accepted in attr.json but never written."""
MAX_FILENAME_BYTES = 255
"""The limit of ext4 and xfs for a file name."""
MAX_REVISION = 2**31 - 1
MAX_SIZE_BYTES = 2**63 - 1
"""The ranges of the catalog's integer and bigint columns."""
MAX_TAGS = 64
MAX_TAG_BYTES = 128
MAX_METADATA_DEPTH = 8
DEFAULT_TTL_DAYS = 30
MAX_TTL_DAYS = 365
SAME_REQUEST = timedelta(hours=24)
"""How long after its first attempt a request is repeated: an Idempotency-Key is kept as long."""

Retention = Literal["permanent", "temporary"]

EMPTY_CHANGE = "set filename, tags, metadata or ttl_days: the change is empty"

_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_BIDI_CONTROL = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
"""Bidirectional embeddings, overrides and isolates, with which evil\u202efdp.exe is displayed as evilexe.pdf.
"""
_INVISIBLE = frozenset({"Zs", "Cf", "Mn", "Me"})
"""Categories of characters that display nothing by themselves: spaces, zero-width characters, variation
selectors."""


class Attributes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attributes of one file. Times are RFC 3339 UTC text, `checksum` is `sha256:<hex>`."""

    schema_version: int = SCHEMA_VERSION
    file_id: str
    revision: int
    filename: str
    content_type: str
    size_bytes: int
    checksum: str
    storage_element_id: str
    created_at: str
    updated_at: str
    owner: str
    tags: list[str]
    metadata: dict[str, Any]
    retention: Retention
    expires_at: str | None
    unknown: dict[str, Any] = msgspec.field(default_factory=dict)
    """Fields of a later version, preserved unchanged; and `moving_to` while the file moves."""

    @property
    def moving_to(self) -> str | None:
        """The element to which the file moves; see docs/decisions/0013."""
        target = self.unknown.get("moving_to")
        return target if isinstance(target, str) else None


_KNOWN = frozenset(Attributes.__struct_fields__) - {"unknown"}
_OF_KNOWN_FIELDS = msgspec.json.Decoder(Attributes)


class NewFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attributes that the uploader states, before the content is received."""

    filename: str
    content_type: str
    owner: str
    tags: list[str]
    metadata: dict[str, Any]
    retention: Retention
    expires_at: str | None


class Changes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of PATCH at an element. Unset fields stay unchanged."""

    filename: str | msgspec.UnsetType = msgspec.UNSET
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    expires_at: str | msgspec.UnsetType = msgspec.UNSET
    """Set for temporary files only. A client states `ttl_days`, counted from the time of its request."""
    moving_to: str | msgspec.UnsetType = msgspec.UNSET
    """The file becomes permanent, and moves to this element. Until it has moved, it cannot be changed."""


def is_applied(current: Attributes, changes: Changes) -> bool:
    """True if the file already has every value that `changes` sets, for instance because an earlier attempt
    applied them although its answer was lost. Values are compared as JSON: in Python 1, 1.0 and True are
    equal."""
    for name, value in msgspec.structs.asdict(changes).items():
        if value is msgspec.UNSET:
            continue
        now = current.moving_to if name == "moving_to" else getattr(current, name)
        if not (_is_extended(now, value) if name == "expires_at" else _to_json(value) == _to_json(now)):
            return False
    return True


def _is_extended(now: str | None, wanted: str) -> bool:
    """An earlier attempt of the same request counted `ttl_days` from its own time."""
    return now is not None and timedelta(0) <= parse_rfc3339(wanted) - parse_rfc3339(now) <= SAME_REQUEST


def _to_json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def encode(attributes: Attributes) -> bytes:
    """attr.json: UTF-8, sorted keys, no spaces. Raises InvalidFields over MAX_ATTRIBUTES_BYTES."""
    fields = msgspec.structs.asdict(attributes)
    unknown = fields.pop("unknown")
    try:
        encoded = orjson.dumps({**unknown, **fields} if unknown else fields, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:  # integers over 64 bits, lone surrogates
        raise InvalidFields(f"the attributes are not JSON: {error}") from error
    if len(encoded) > MAX_ATTRIBUTES_BYTES:
        raise InvalidFields(
            f"the attributes take {len(encoded)} bytes, the limit is {MAX_ATTRIBUTES_BYTES}",
            fields=["metadata", "tags"],
        )
    return encoded


def decode(encoded: bytes) -> Attributes:
    """The attributes in an attr.json. Raises ValueError unless it is complete and of a schema version that
    this code can read."""
    encoded = encoded.removeprefix(BYTE_ORDER_MARK)
    if len(encoded) > MAX_ATTRIBUTES_BYTES:
        raise ValueError(f"attr.json has {len(encoded)} bytes, the limit is {MAX_ATTRIBUTES_BYTES}")
    try:
        attributes = _OF_KNOWN_FIELDS.decode(encoded)
    except (msgspec.ValidationError, RecursionError):
        attributes = _decode_any(encoded)
    else:
        if attributes.unknown or b'"unknown"' in encoded:  # a field of that name in the file is unknown too
            attributes = _decode_any(encoded)
    _check_decoded(attributes)
    return attributes


def _decode_any(encoded: bytes) -> Attributes:
    """With unknown fields, or not valid; several times as slow."""
    try:
        raw = msgspec.json.decode(encoded)
    except RecursionError as error:
        raise ValueError("attr.json is nested too deeply") from error
    if not isinstance(raw, dict):
        raise ValueError("attr.json must be an object")
    known = {name: raw[name] for name in _KNOWN & raw.keys()}
    unknown = {name: value for name, value in raw.items() if name not in _KNOWN}
    return msgspec.structs.replace(msgspec.convert(known, Attributes), unknown=unknown)


def _check_decoded(attributes: Attributes) -> None:
    if attributes.schema_version != SCHEMA_VERSION:
        raise ValueError(f"schema_version {attributes.schema_version} is unknown")
    if not is_id(attributes.file_id):
        raise ValueError("file_id must be a UUID in lower case")
    if attributes.revision < 1 or attributes.size_bytes < 0:
        raise ValueError("revision or size_bytes is out of range")
    if not _CHECKSUM.fullmatch(attributes.checksum):
        raise ValueError("checksum must be sha256:<hex>")
    for moment in (attributes.created_at, attributes.updated_at, attributes.expires_at):
        if moment is not None:
            parse_rfc3339(moment)


def unfit_for_catalog(attributes: Attributes) -> str | None:
    """The reason why a valid attr.json cannot be stored in the catalog; None if it can."""
    try:
        encoded = encode(attributes)
    except InvalidFields as error:
        return error.detail
    if b"\\u0000" in encoded:
        return "a text contains U+0000"
    if attributes.revision > MAX_REVISION:
        return f"revision {attributes.revision} is over {MAX_REVISION}"
    if attributes.size_bytes > MAX_SIZE_BYTES:
        return f"size_bytes {attributes.size_bytes} is over {MAX_SIZE_BYTES}"
    if len(attributes.filename.encode()) > MAX_FILENAME_BYTES:
        return f"filename takes more than {MAX_FILENAME_BYTES} bytes"
    for moment in (attributes.created_at, attributes.updated_at, attributes.expires_at):
        if moment is not None and not is_rfc3339(moment):
            return f"{moment!r} is not an RFC 3339 time"
    return None


def is_id(text: str) -> bool:
    """True if the text is a UUID in canonical form: in lower case, which is safe in a path."""
    return _UUID.fullmatch(text) is not None


def canonical_id(text: str) -> str | None:
    """The UUID in lower case, or None if the text is not a UUID. Braces, URNs and bare digits are not
    accepted (RFC 9562 §4)."""
    lower = text.lower()
    return lower if is_id(lower) else None


def check_new_file(new: NewFile) -> None:
    """Raises InvalidFields with the names of the invalid fields."""
    check_filename(new.filename)
    check_tags(new.tags)
    check_metadata(new.metadata)
    canonical_type(new.content_type)
    if (new.retention == "temporary") != (new.expires_at is not None):
        raise InvalidFields("expires_at must be set for a temporary file, and only for that", fields=["retention"])


def check_changes(changes: Changes) -> None:
    """Raises InvalidFields with the names of the invalid fields. An empty change is valid here; the element
    refuses it."""
    if changes.filename is not msgspec.UNSET:
        check_filename(changes.filename)
    if changes.tags is not msgspec.UNSET:
        check_tags(changes.tags)
    if changes.metadata is not msgspec.UNSET:
        check_metadata(changes.metadata)
    if changes.expires_at is not msgspec.UNSET and not is_rfc3339(changes.expires_at):
        raise InvalidFields("expires_at must be an RFC 3339 time", fields=["ttl_days"])


def check_filename(name: str) -> None:
    """Raises InvalidFields unless the name has 1 to 255 bytes of UTF-8, no path separator, no control
    character and a visible character.

    Joiners (U+200C, U+200D) and the marks U+200E and U+200F are allowed, because emoji, Persian, Arabic and
    Hebrew need them.
    """
    problem = ""
    if not name or name in (".", ".."):
        problem = "filename must not be empty, . or .."
    elif not _is_utf8(name):
        problem = "filename is not UTF-8"
    elif len(name.encode()) > MAX_FILENAME_BYTES:
        problem = f"filename takes {len(name.encode())} bytes, the limit is {MAX_FILENAME_BYTES}"
    elif "/" in name or "\\" in name:
        problem = "filename contains a path separator: send only the last part of the path"
    elif _CONTROL.search(name):
        problem = "filename contains a control character"
    elif _BIDI_CONTROL.search(name):
        problem = "filename contains a character that changes the direction of text"
    elif all(unicodedata.category(character) in _INVISIBLE for character in name):
        problem = "filename has no visible character"
    if problem:
        raise InvalidFields(problem, fields=["filename"])


def check_tags(tags: list[str]) -> None:
    """Raises InvalidFields for too many tags, or an invalid one."""
    if len(tags) > MAX_TAGS:
        raise InvalidFields(f"{len(tags)} tags, the limit is {MAX_TAGS}", fields=["tags"])
    for tag in tags:
        if not tag or not _is_utf8(tag) or len(tag.encode()) > MAX_TAG_BYTES or _CONTROL.search(tag):
            raise InvalidFields(f"a tag must have 1 to {MAX_TAG_BYTES} bytes and no control character", fields=["tags"])


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raises InvalidFields unless this is a JSON object of bounded depth without U+0000, which PostgreSQL
    cannot store."""
    _check_value(metadata, MAX_METADATA_DEPTH)


def _check_value(value: Any, depth_left: int) -> None:
    if depth_left == 0:
        raise InvalidFields(f"metadata is nested deeper than {MAX_METADATA_DEPTH}", fields=["metadata"])
    if isinstance(value, str):
        if "\x00" in value or not _is_utf8(value):
            raise InvalidFields("metadata must not contain U+0000 or unpaired surrogates", fields=["metadata"])
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidFields("integers in metadata must fit in 64 bits", fields=["metadata"])
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidFields("numbers in metadata must be finite", fields=["metadata"])
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_value(key, depth_left)
            _check_value(inner, depth_left - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, depth_left - 1)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
