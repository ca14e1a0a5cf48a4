"""The text of `q`: words, "quoted phrases", and -words that must not occur; the last word may be incomplete.

Nothing of the client's text reaches PostgreSQL's query language but letters and digits, in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from artstore.catalog.words import words_of

_TERM = re.compile(r'(?:(?<!\S)(?P<excluded>-))?(?:"(?P<phrase>[^"]*)(?:"|$)|(?P<bare>[^\s"]+))')


@dataclass(frozen=True, slots=True)
class TextQuery:
    """`stemmed` is for to_tsquery with the configuration `artstore`. A file matches it and, if there is a last word that
    may be incomplete, `last_stemmed`, or else `last_before` (of the same term) and a word that begins as in `last_prefix`.
    """

    stemmed: str = ""
    last_stemmed: str = ""
    last_before: str = ""
    last_prefix: str = ""


@dataclass(frozen=True, slots=True)
class _Term:
    """Adjacent words: a phrase, or one bare word such as `2024-05` that consists of several."""

    words: Sequence[str]
    excluded: bool
    quoted: bool

    def __str__(self) -> str:
        return ("!" if self.excluded else "") + _adjacent(self.words)


def parse_text(text: str) -> TextQuery:
    """Text without a letter or digit is a query without words, which finds nothing. Raises ValueError if it is empty."""
    if not text:
        raise ValueError("must not be empty")
    terms = [term for match in _TERM.finditer(text) if (term := _term(match)).words]
    if not terms:
        return TextQuery()
    last = terms[-1]
    if last.excluded or last.quoted:
        return TextQuery(" & ".join(map(str, terms)))
    return TextQuery(
        stemmed=" & ".join(map(str, terms[:-1])),
        last_stemmed=str(last),
        last_before=_adjacent(last.words[:-1]) if len(last.words) > 1 else "",
        last_prefix=f"'{last.words[-1]}':*",
    )


def _term(match: re.Match[str]) -> _Term:
    phrase = match["phrase"]
    return _Term(words_of(match["bare"] if phrase is None else phrase), bool(match["excluded"]), phrase is not None)


def _adjacent(words: Sequence[str]) -> str:
    return "(" + " <-> ".join(f"'{word}'" for word in words) + ")"
