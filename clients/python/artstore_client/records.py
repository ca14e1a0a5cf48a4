"""The answers of the services as frozen dataclasses.

Times are aware `datetime`s in UTC. Members that this version does not know are kept in `extra`, so that a program works
with later versions of the services; `to_json()` gives back all members as they were sent.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal, Self

from .errors import InvalidAnswer


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all records."""

    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_json(cls, given: Any) -> Self:
        """Raises InvalidAnswer when a member is missing or has the wrong form."""
        if not isinstance(given, Mapping):
            raise InvalidAnswer(f"expected a JSON object for a {cls.__name__}")
        readers = _readers(cls)
        known: dict[str, Any] = {}
        for name, (read, required) in readers.items():
            if name in given:
                try:
                    known[name] = read(given[name])
                except (TypeError, ValueError) as error:
                    raise InvalidAnswer(f"{name} of a {cls.__name__} cannot be read: {error}") from error
            elif required:
                raise InvalidAnswer(f"{name} of a {cls.__name__} is missing")
        return cls(**known, extra={name: value for name, value in given.items() if name not in readers})

    def to_json(self) -> dict[str, Any]:
        """All members as JSON values, those of `extra` included."""
        return {**{name: _plain(getattr(self, name)) for name in _readers(type(self))}, **self.extra}


@dataclass(frozen=True, kw_only=True)
class FileRecord(Record):
    """A file's attributes. `checksum` is `sha256:<hex>`; `expires_at` is None for a permanent file."""

    file_id: str
    revision: int
    filename: str
    content_type: str
    size_bytes: int
    checksum: str
    storage_element_id: str
    created_at: datetime
    updated_at: datetime
    owner: str
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    retention: str
    expires_at: datetime | None
    schema_version: int = 1

    @property
    def sha256(self) -> str:
        """The checksum as bare hex."""
        return self.checksum.removeprefix("sha256:")


@dataclass(frozen=True, kw_only=True)
class Change(Record):
    """A creation, update or deletion. `file` is the present record, None when the file is deleted."""

    change: Literal["created", "updated", "deleted"]
    file_id: str
    revision: int
    at: datetime
    file: FileRecord | None


@dataclass(frozen=True, kw_only=True)
class Link(Record):
    """A URL that reads one file without a token until `expires_at`. It is a secret."""

    url: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Account(Record):
    """A service account."""

    id: str
    client_id: str
    role: str
    permissions: tuple[str, ...]
    name: str
    description: str
    suspended: bool
    rate_per_minute: int | None
    expires_at: datetime | None
    previous_secret_valid_until: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, kw_only=True)
class AccountWithSecret(Account):
    """An account with its new secret, which is shown only in this answer."""

    client_secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Capacity(Record):
    """Space of an element in bytes; `files` is a count, `fill` one of ok, warning, critical, full."""

    total_bytes: int
    used_bytes: int
    available_bytes: int
    files: int
    fill: str


@dataclass(frozen=True, kw_only=True)
class Element(Record):
    """A storage element as registered. `mode` is edit, rw, ro or ar; `status` online or away."""

    id: str
    url: str
    public_url: str | None = None
    mode: str
    backend: str
    version: str
    capacity: Capacity
    priority: int
    status: str
    last_seen_at: datetime | None
    registered_at: datetime
    read_only_reason: str | None = None
    away_reason: str | None = None
    root_id: str | None = None
    incarnation: int = 0
    refused: Mapping[str, Any] | None = None
    generation: int = 0


@dataclass(frozen=True, kw_only=True)
class Saga(Record):
    """A change that waits for its element, or an upload. `problem` says why it was refused."""

    saga_id: str
    kind: str
    state: str
    file_id: str | None
    storage_element_id: str
    owner: str
    due_at: datetime | None
    attempts: int
    last_error: str
    begun_at: datetime
    updated_at: datetime
    abandoned: tuple[str, ...] = ()
    reason: str = ""
    age_s: float = 0.0
    waits_for: str | None = None
    wanted: Mapping[str, Any] | None = None
    problem: Mapping[str, Any] | None = None

    @property
    def finished(self) -> bool:
        return self.state in ("committed", "refused", "compensated")


@dataclass(frozen=True, kw_only=True)
class AuditEvent(Record):
    """An event of the audit log. `result` is success, denied or failure."""

    timestamp: datetime
    service: str
    action: str
    user_id: str
    resource: str
    result: str
    metadata: Mapping[str, Any]
    chain: str
    seq: int
    prev: str
    signature: str


_KNOWN: dict[type[Record], dict[str, tuple[Callable[[Any], Any], bool]]] = {}


def _readers(cls: type[Record]) -> dict[str, tuple[Callable[[Any], Any], bool]]:
    """For each field of the class: its reader, and whether it must be present."""
    if cls in _KNOWN:
        return _KNOWN[cls]
    hints = typing.get_type_hints(cls)
    return _KNOWN.setdefault(
        cls,
        {
            one.name: (_reader(hints[one.name]), one.default is MISSING and one.default_factory is MISSING)
            for one in fields(cls)
            if one.name != "extra"
        },
    )


def _reader(hint: Any) -> Callable[[Any], Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        read = _reader(next(one for one in inner if one is not types.NoneType))
        return lambda value: None if value is None else read(value)
    if origin is tuple:
        return lambda value: tuple(_of_type(list)(value))
    if origin is typing.Literal:
        return _of_type(str)
    if hint is datetime:
        return _time
    if hint is float:
        return lambda value: float(_of_type(int, float)(value))
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_json
    return _of_type(dict) if origin is not None else _of_type(hint)


def _of_type(*expected: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            raise TypeError(f"expected {expected[0].__name__}, found {type(value).__name__}")
        return value

    return read


def _time(value: Any) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("the time has no offset")
    return moment.astimezone(UTC)


def time_text(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds. Raises ValueError without an offset."""
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset, such as datetime.now(UTC)")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return time_text(value)
    if isinstance(value, Record):
        return value.to_json()
    return list(value) if isinstance(value, tuple) else value
