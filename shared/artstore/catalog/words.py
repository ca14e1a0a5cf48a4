"""Splits text into the words that full-text search compares, and names into trigrams.

Index and search both use these functions, so a search does not depend on the locale of the database. PostgreSQL only
stems the words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any
from zlib import crc32

MAX_WORD_CHARS = 64
"""Longer words, such as hashes and encoded data, are found by their beginning."""
GRAM_CHARS = 3

_WORD = re.compile(r"[^\W_]+")
_ACCENTS = re.compile("[\u0300-\u036f]+")
_SHORT_I = "и\u0306"
_SPECIAL_LOWER = re.compile("[Σİ]")
"""The letters that `str.lower` maps by their neighbours, or to two characters."""


def words_of(text: str) -> list[str]:
    """Letters and digits only, in lower case, without accents. Cyrillic `ё` becomes `е`, but `й` stays: it is a letter
    that stemming needs."""
    if not text.isascii():
        text = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
        text = unicodedata.normalize("NFC", _ACCENTS.sub("", text.replace(_SHORT_I, "й")))
    else:
        text = text.lower()
    return [word[:MAX_WORD_CHARS] for word in _WORD.findall(text)]


def grams_of(name: str) -> list[int]:
    """All sequences of three characters of a name, hashed to the range of PostgreSQL's integer, ignoring case.

    A name that contains another text has all of its trigrams. A text shorter than three characters has none.
    """
    lower = "".join(map(_lower, name)) if _SPECIAL_LOWER.search(name) else name.lower()
    grams = (lower[at : at + GRAM_CHARS] for at in range(len(lower) - GRAM_CHARS + 1))
    return sorted({crc32(gram.encode("utf-8", "surrogatepass")) - 2**31 for gram in grams})


def texts_of(filename: str, tags: Iterable[str], metadata: Any) -> list[str]:
    """The texts that full-text search covers: name, tags, and the strings among the values of metadata."""
    return [filename, *tags, *_values(metadata)]


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _values(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _values(inner)


def _lower(char: str) -> str:
    """As PostgreSQL does it: one character stays one, whatever is beside it."""
    return char.lower()[0]
