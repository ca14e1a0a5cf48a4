"""Parses the Range field (RFC 9110 §14): one byte range, or none."""

from __future__ import annotations

import re
from typing import NamedTuple

from artstore.errors import RangeNotSatisfiable

_SINGLE = re.compile(r"([0-9]*)-([0-9]*)", re.ASCII)
_BEYOND_EVERY_FILE = 2**63


class ByteRange(NamedTuple):
    """`first` and `last` are byte positions, both inclusive."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


def choose_range(field: str, size_bytes: int) -> ByteRange | None:
    """The part of a file of `size_bytes` that a Range field selects; None selects the whole file. Raises
    RangeNotSatisfiable.

    A field that is malformed, has another unit or several ranges is ignored, as §14.2 allows. `-n` on an
    empty file is satisfiable (§14.1.2) but Content-Range cannot express it, so it selects the whole file.
    `0-`, which download managers send for every file, is treated in the same way.
    """
    unit, equals, ranges = field.partition("=")
    specs = [spec.strip(" \t") for spec in ranges.split(",")]
    specs = [spec for spec in specs if spec]
    if not equals or unit.strip(" \t").lower() != "bytes" or len(specs) != 1:
        return None
    match = _SINGLE.fullmatch(specs[0])
    if match is None or match[0] == "-":
        return None
    if not match[1]:
        return _suffix(_position(match[2]), size_bytes)
    first, last = _position(match[1]), _position(match[2]) if match[2] else _BEYOND_EVERY_FILE
    if first > last:
        return None
    if size_bytes == 0 and first == 0 and not match[2]:
        return None
    if first >= size_bytes:
        raise RangeNotSatisfiable(f"the file has {size_bytes} bytes", size_bytes=size_bytes)
    return ByteRange(first, min(last, size_bytes - 1))


def _suffix(length: int, size_bytes: int) -> ByteRange | None:
    if length == 0:
        raise RangeNotSatisfiable("a range of the last 0 bytes is empty", size_bytes=size_bytes)
    if size_bytes == 0:
        return None
    return ByteRange(max(0, size_bytes - length), size_bytes - 1)


def _position(digits: str) -> int:
    """int() refuses more than 4300 digits, so a long number is replaced by one beyond every file."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) < 19 else _BEYOND_EVERY_FILE
