"""Query parameters of lists, which every module reads in the same way: each one is read or refused, none is ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from artstore.clock import is_rfc3339, parse_rfc3339
from artstore.errors import InvalidFields

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
"""Items on one page."""

Reader = Callable[[str], Any]
"""Reads one value. Raises ValueError whose text is the problem."""


def read_parameters(given: Iterable[tuple[str, str]], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The values by name. Raises InvalidFields that names all wrong, unknown and repeated parameters."""
    found: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in given:
        try:
            if name in found:
                raise ValueError("given twice")
            if name not in readers:
                raise ValueError("unknown parameter")
            found[name] = readers[name](value)
        except ValueError as error:
            problems[name] = str(error)
    refuse(problems)
    return found


def refuse(problems: Mapping[str, str]) -> None:
    """Raises InvalidFields unless `problems`, by parameter, is empty."""
    if problems:
        detail = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise InvalidFields(detail, fields=sorted(problems))


def timestamp(value: str) -> datetime:
    """A reader of RFC 3339 times; in UTC. A query string turns the "+" of an offset into a blank, which often comes
    unescaped."""
    try:
        if not is_rfc3339(value := value[:11] + value[11:].replace(" ", "+", 1)):
            raise ValueError("form")
        return parse_rfc3339(value)
    except ValueError as error:
        raise ValueError("must be an RFC 3339 time with an offset, such as 2026-01-01T00:00:00Z") from error


def integer(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers."""

    def read(value: str) -> int:
        is_number = value.isascii() and value.isdigit() and len(value) <= len(str(most))
        if not is_number or not least <= int(value) <= most:
            raise ValueError(f"must be a number from {least} to {most}")
        return int(value)

    return read


def flag(value: str) -> bool:
    """A reader of true and false."""
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value == "true"


limit = integer(1, MAX_LIMIT)
