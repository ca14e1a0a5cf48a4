"""A file's attributes: the content of `attr.json`, of every answer about a file and of the catalog.

`Attributes` is frozen; `decode` and `encode` are the only way in and out, and keep fields that this version does not know.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any, Literal

import msgspec
import orjson

from artstore.clock import parse_rfc3339
from artstore.contracts.media_type import canonical_type
from artstore.errors import InvalidFields

SCHEMA_VERSION = 1
MAX_ATTRIBUTES_BYTES = 4096
"""attr.json fits one disk block, so a put of it is one write."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Some editors begin a file with it; attr.json is read all the same, and written without it."""
MAX_FILENAME_BYTES = 255
"""What ext4 and xfs take for a name."""
MAX_REVISION = 2**31 - 1
MAX_SIZE_BYTES = 2**63 - 1
"""integer and bigint of the catalog's columns."""
MAX_TAGS = 64
MAX_TAG_BYTES = 128
MAX_METADATA_DEPTH = 8
DEFAULT_TTL_DAYS = 30
MAX_TTL_DAYS = 365

Retention = Literal["permanent", "temporary"]

_FILE_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TURNS_TEXT = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
"""Bidirectional embeddings, overrides and isolates: with them evil\u202efdp.exe is shown as evilexe.pdf."""
_INVISIBLE = frozenset({"Zs", "Cf", "Mn", "Me"})
"""Categories of characters that show nothing by themselves: blanks, zero-width ones, variation selectors."""


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    """One file as attr.json says it. Times are RFC 3339 UTC text, `checksum` is `sha256:<hex>`."""

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
    """Fields written by a later version; kept as they came."""


_KNOWN = frozenset(Attributes.__struct_fields__) - {"unknown"}


class NewFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the uploader says of a file, before its bytes are known."""

    filename: str
    content_type: str
    owner: str
    tags: list[str]
    metadata: dict[str, Any]
    retention: Retention
    expires_at: str | None


class Changes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of PATCH: what is absent stays as it is."""

    filename: str | msgspec.UnsetType = msgspec.UNSET
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


def encode(attributes: Attributes) -> bytes:
    """attr.json: UTF-8, sorted keys, no spaces. Raises InvalidFields over MAX_ATTRIBUTES_BYTES."""
    fields = {name: getattr(attributes, name) for name in _KNOWN}
    try:
        encoded = orjson.dumps({**attributes.unknown, **fields}, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:  # integers over 64 bits, lone surrogates
        raise InvalidFields(f"the attributes are not JSON: {error}") from error
    if len(encoded) > MAX_ATTRIBUTES_BYTES:
        raise InvalidFields(
            f"the attributes take {len(encoded)} bytes, the limit is {MAX_ATTRIBUTES_BYTES}",
            fields=["metadata", "tags"],
        )
    return encoded


def decode(encoded: bytes) -> Attributes:
    """Raises ValueError for whatever is no complete attr.json of a schema version this code can read."""
    encoded = encoded.removeprefix(BYTE_ORDER_MARK)
    if len(encoded) > MAX_ATTRIBUTES_BYTES:
        raise ValueError(f"{len(encoded)} bytes are more than attr.json may have")
    try:
        raw = msgspec.json.decode(encoded)
    except RecursionError as error:
        raise ValueError("attr.json is nested too deeply") from error
    if not isinstance(raw, dict):
        raise ValueError("attr.json must be an object")
    attributes = msgspec.convert({name: raw[name] for name in _KNOWN & raw.keys()}, Attributes)
    _check_decoded(attributes)
    unknown = {name: value for name, value in raw.items() if name not in _KNOWN}
    return msgspec.structs.replace(attributes, unknown=unknown) if unknown else attributes


def _check_decoded(attributes: Attributes) -> None:
    if attributes.schema_version != SCHEMA_VERSION:
        raise ValueError(f"schema_version {attributes.schema_version} is not known")
    if not _FILE_ID.fullmatch(attributes.file_id):
        raise ValueError("file_id must be a UUID in lower case")
    if attributes.revision < 1 or attributes.size_bytes < 0:
        raise ValueError("revision or size_bytes is out of range")
    if not _CHECKSUM.fullmatch(attributes.checksum):
        raise ValueError("checksum must be sha256:<hex>")
    for moment in (attributes.created_at, attributes.updated_at, attributes.expires_at):
        if moment is not None:
            parse_rfc3339(moment)


def unfit_for_catalog(attributes: Attributes) -> str | None:
    """Why PostgreSQL takes no row of this attr.json, which is whole by its own rules; None for those it takes."""
    try:
        encoded = encode(attributes)
    except InvalidFields as error:
        return error.detail
    if b"\\u0000" in encoded:
        return "a text holds U+0000"
    if attributes.revision > MAX_REVISION:
        return f"revision {attributes.revision} is over {MAX_REVISION}"
    if attributes.size_bytes > MAX_SIZE_BYTES:
        return f"size_bytes {attributes.size_bytes} is over {MAX_SIZE_BYTES}"
    if len(attributes.filename.encode()) > MAX_FILENAME_BYTES:
        return f"filename takes more than {MAX_FILENAME_BYTES} bytes"
    for moment in (attributes.created_at, attributes.updated_at, attributes.expires_at):
        if moment is not None and not _RFC3339.fullmatch(moment):
            return f"{moment!r} is not a time of RFC 3339"
    return None


def canonical_id(text: str) -> str | None:
    """A UUID as it is kept, in lower case; None for what is none. Braces, URNs and bare digits are none (RFC 9562 §4)."""
    lower = text.lower()
    return lower if _UUID.fullmatch(lower) else None


def check_new_file(new: NewFile) -> None:
    """Raises InvalidFields, with the names of the fields that break a rule."""
    check_filename(new.filename)
    check_tags(new.tags)
    check_metadata(new.metadata)
    canonical_type(new.content_type)
    if (new.retention == "temporary") != (new.expires_at is not None):
        raise InvalidFields("expires_at must be set for a temporary file, and only for that", fields=["retention"])


def check_changes(changes: Changes) -> None:
    """Raises InvalidFields. A change of nothing breaks no rule here: the element, which makes a revision of it, refuses it."""
    if changes.filename is not msgspec.UNSET:
        check_filename(changes.filename)
    if changes.tags is not msgspec.UNSET:
        check_tags(changes.tags)
    if changes.metadata is not msgspec.UNSET:
        check_metadata(changes.metadata)


def check_filename(name: str) -> None:
    """A name, not a path: 1 to 255 bytes of UTF-8, no separator, no control character, and something to see.

    Joiners (U+200C, U+200D) and the marks U+200E and U+200F stay allowed: emoji, Persian, Arabic and Hebrew need them.
    """
    problem = ""
    if not name or name in (".", ".."):
        problem = "filename is empty or no name"
    elif not _is_utf8(name):
        problem = "filename is not UTF-8"
    elif len(name.encode()) > MAX_FILENAME_BYTES:
        problem = f"filename takes {len(name.encode())} bytes, the limit is {MAX_FILENAME_BYTES}"
    elif "/" in name or "\\" in name:
        problem = "filename holds a path separator: send the last part of the path only"
    elif _CONTROL.search(name):
        problem = "filename holds a control character"
    elif _TURNS_TEXT.search(name):
        problem = "filename holds a character that turns the direction of text"
    elif all(unicodedata.category(character) in _INVISIBLE for character in name):
        problem = "filename shows nothing"
    if problem:
        raise InvalidFields(problem, fields=["filename"])


def check_tags(tags: list[str]) -> None:
    if len(tags) > MAX_TAGS:
        raise InvalidFields(f"{len(tags)} tags, the limit is {MAX_TAGS}", fields=["tags"])
    for tag in tags:
        if not tag or not _is_utf8(tag) or len(tag.encode()) > MAX_TAG_BYTES or _CONTROL.search(tag):
            raise InvalidFields(f"a tag has 1 to {MAX_TAG_BYTES} bytes and no control character", fields=["tags"])


def check_metadata(metadata: dict[str, Any]) -> None:
    """Any JSON object of bounded depth. PostgreSQL cannot hold U+0000 in JSON, so nowhere may it stand."""
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
