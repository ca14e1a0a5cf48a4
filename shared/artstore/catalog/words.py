"""Splits text into the words that full-text search compares, and names into trigrams.

Index and search both use these functions, so a search does not depend on the locale of the database. PostgreSQL only
stems the words.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any
from zlib import crc32

from artstore.contracts.media_type import essence_of

MAX_WORD_CHARS = 64
"""Longer words, such as hashes and encoded data, are found by their beginning."""
BOUNDARY = "0" * (MAX_WORD_CHARS + 1)
"""Stands between the words of two texts of a file. It is longer than any word, so no search finds it."""
GRAM_CHARS = 3

_WORD = re.compile(r"[^\W_]+")
_ACCENTS = re.compile("[\u0300-\u036f]+")
_SHORT_I = "и\u0306"
_SPECIAL_LOWER = re.compile("[Σİ]")
"""The letters that `str.lower` maps by their neighbours, or to two characters."""


def words_of(text: str) -> list[str]:
    """Letters and digits only, in lower case, without accents. Cyrillic `ё` becomes `е`, but `й` stays: it is a letter
    that stemming needs."""
    return _split(_normalize(text))


def words_of_file(filename: str, tags: Iterable[str], metadata: Any) -> str:
    """The words that full-text search covers: of the name, the tags, and the keys and values of metadata.

    A value follows its key; BOUNDARY stands between texts, so that no phrase spans two of them.
    """
    texts = "\0".join((filename, *tags, *_texts_in(metadata)))  # PostgreSQL's text and JSON cannot hold U+0000
    parts = (" ".join(_split(part)) for part in _normalize(texts).split("\0"))
    return f" {BOUNDARY} ".join(part for part in parts if part)


def grams_of(name: str) -> list[int]:
    """All sequences of three characters of a name, hashed to the range of PostgreSQL's integer, ignoring case.

    A name that contains another text has all of its trigrams. A text shorter than three characters has none.
    """
    lower = "".join(map(_lower, name)) if _SPECIAL_LOWER.search(name) else name.lower()
    grams = (lower[at : at + GRAM_CHARS] for at in range(len(lower) - GRAM_CHARS + 1))
    return sorted({crc32(gram.encode("utf-8", "surrogatepass")) - 2**31 for gram in grams})


def terms_of(owner: str, content_type: str, tags: Iterable[str]) -> list[str]:
    """The filters of lists, as entries of the index of words, so that words and filters are intersected there."""
    return [term("owner", owner), term("type", essence_of(content_type)), *(term("tag", tag) for tag in tags)]


@lru_cache(maxsize=4096)
def term(kind: str, value: str) -> str:
    """Hashed, because an entry has a limited length; `=` is in no word, so no search by words finds it."""
    return f"={kind}={hashlib.md5(value.encode('utf-8', 'surrogatepass'), usedforsecurity=False).hexdigest()[:16]}"


def _texts_in(value: Any, key: str = "") -> Iterator[str]:
    """Each string with its key before it, and the keys of all else: `true`, `false` and `null` are not words."""
    if isinstance(value, str):
        yield f"{key} {value}" if key else value
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _texts_in(inner, key)
    else:
        yield key
        if isinstance(value, dict):
            for inner_key, inner in value.items():
                yield from _texts_in(inner, inner_key)


def _normalize(text: str) -> str:
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return unicodedata.normalize("NFC", _ACCENTS.sub("", text.replace(_SHORT_I, "й")))


def _split(normalized: str) -> list[str]:
    return [word[:MAX_WORD_CHARS] for word in _WORD.findall(normalized)]


def _lower(char: str) -> str:
    """As PostgreSQL does it: one character stays one, whatever is beside it."""
    return char.lower()[0]
