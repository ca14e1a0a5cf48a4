"""Conditional requests (RFC 9110 §13): the decision between 200, 206, 304, 412 and 416 for a GET or HEAD."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from artstore.clock import parse_rfc3339
from artstore.contracts.files import Attributes
from artstore.errors import RevisionMismatch
from artstore.http.ranges import ByteRange, choose_range
from artstore.http.request_headers import CONDITIONS, RANGES

_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_EVALUATED = {name.encode(): name for name in CONDITIONS | RANGES}
_MAX_TAGS = 256
"""Tags evaluated in one header; further ones are ignored."""


@dataclass(frozen=True, slots=True)
class Validators:
    """`date_is_strong` (§8.8.2.2): no different representation was ever sent with this date."""

    etag: str
    last_modified: datetime
    date_is_strong: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: 200 with everything, 206 with `part`, or 304."""

    status: int
    part: ByteRange | None = None


def conditions_in(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that `plan` evaluates. Repeated lines are joined to one list (§5.3); the edge refuses other repetitions."""
    found: dict[str, str] = {}
    for line, value in fields:
        name = _EVALUATED.get(line)
        if name is not None:
            text = value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def validators_of(attributes: Attributes) -> Validators:
    """The checksum is the strong tag. Dates have whole seconds, which two revisions may share."""
    return Validators(
        etag=etag_of(attributes),
        last_modified=parse_rfc3339(attributes.updated_at).replace(microsecond=0),
        date_is_strong=attributes.revision == 1,
    )


def etag_of(attributes: Attributes) -> str:
    return f'"{attributes.checksum}"'


def http_date(moment: datetime) -> str:
    """IMF-fixdate."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def plan(method: str, headers: Mapping[str, str], validators: Validators, size_bytes: int) -> Plan:
    """In the order of §13.2.2. `headers` have lower-case names.

    Raises RevisionMismatch (412) and RangeNotSatisfiable (416). Range has a meaning for GET only (§14.2).
    """
    if not headers:
        return Plan(200)
    check_unchanged(headers, validators)
    if is_known_to_client(headers, validators):
        return Plan(304)
    asked = headers.get("range")
    if method != "GET" or asked is None or not _range_applies(headers.get("if-range"), validators):
        return Plan(200)
    part = choose_range(asked, size_bytes)
    return Plan(206, part) if part else Plan(200)


def check_unchanged(headers: Mapping[str, str], validators: Validators) -> None:
    """If-Match, and only without it If-Unmodified-Since. Raises RevisionMismatch."""
    wanted = headers.get("if-match")
    if wanted is not None:
        holds = wanted.strip() == "*" or validators.etag in _entity_tags(wanted)
    else:
        since = _parse_http_date(headers.get("if-unmodified-since"))
        holds = since is None or validators.last_modified <= since
    if not holds:
        raise RevisionMismatch("the file does not match the condition", etag=validators.etag)


def is_known_to_client(headers: Mapping[str, str], validators: Validators) -> bool:
    """The client's copy is current: If-None-Match, and only without it If-Modified-Since."""
    known = headers.get("if-none-match")
    if known is not None:
        return known.strip() == "*" or any(tag.removeprefix("W/") == validators.etag for tag in _entity_tags(known))
    since = _parse_http_date(headers.get("if-modified-since"))
    return since is not None and validators.last_modified <= since


def _range_applies(if_range: str | None, validators: Validators) -> bool:
    """If-Range compares strongly: a weak tag or a date that two revisions may share never holds (§13.1.5)."""
    if if_range is None:
        return True
    if '"' in if_range:
        return if_range.strip() == validators.etag
    return validators.date_is_strong and _parse_http_date(if_range) == validators.last_modified


def _entity_tags(field: str) -> list[str]:
    return _ENTITY_TAG.findall(field)[:_MAX_TAGS]


def _parse_http_date(field: str | None) -> datetime | None:
    """None without a valid HTTP-date: the condition is then ignored (§13.1.3)."""
    if field is None:
        return None
    try:
        moment = parsedate_to_datetime(field)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # asctime and "-0000" have no zone; HTTP dates are UTC
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
