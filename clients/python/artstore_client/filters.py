"""The filters of a list of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict

from .records import time_text
from .transport import Parameters, compact_json


class Filters(TypedDict, total=False):
    """A file must match all that are given; None is as if left out."""

    q: str | None
    """Words in the name, the tags and the values of the metadata, in any form; the last may be incomplete."""
    tags: Sequence[str]
    """The file has all of these."""
    filename: str | None
    """A part of the name, in any case."""
    metadata: Mapping[str, str | int | float | bool | None]
    """The file has these values under these keys."""
    content_type: str | None
    """With any parameters, unless it has some itself."""
    owner: str | None
    """The client id of the account that uploaded the file."""
    created_from: datetime | None
    """Inclusive."""
    created_to: datetime | None
    """Exclusive."""
    size_min: int | None
    """Bytes, inclusive."""
    size_max: int | None
    """Bytes, inclusive."""
    sort: str | None
    """created_at, updated_at, filename or size_bytes; with `-` before it descending. Default `-created_at`."""


def filter_parameters(filters: Filters) -> Parameters:
    """The parameters of the query string. Raises ValueError."""
    found: list[tuple[str, str]] = []
    for name, value in filters.items():
        if name == "tags":
            found += [("tag", tag) for tag in filters["tags"]]
        elif name == "metadata":
            found += [
                (f"metadata.{key}", one if isinstance(one, str) else compact_json(one))
                for key, one in filters["metadata"].items()
            ]
        elif value is not None:
            found.append((name, time_text(value) if isinstance(value, datetime) else str(value)))
    return found
