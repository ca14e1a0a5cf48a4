"""The statements of lists. They join `files` and `file_search` by file_id and write nothing.

A list with `q` is found in `file_search`, which has all that it is filtered and sorted by but metadata; from `files` come
only the rows of the page. A late index may hide a file from it. All other lists are found in `files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Executable,
    FromClause,
    Integer,
    Select,
    and_,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ClauseElement

from artstore.catalog.tables import AVAILABLE, changes, file_search, files
from artstore.catalog.words import grams_of, term
from artstore.clock import parse_rfc3339
from artstore.contracts.media_type import essence_of

from .parse import TIMES, Search
from .text_query import TextQuery

SPARE_ROWS = 100
"""Rows of deleted files that `file_search` may still have among those of a page."""
MAX_GRAMS = 4
"""The names are compared anyway, and each trigram adds a list of files to intersect."""
FENCE: ColumnElement[int] = literal_column("0")
"""OFFSET 0: PostgreSQL finds the rows inside in the cheapest way, instead of walking along the order until a limit."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """How far `file_search` follows the catalog of about `files` rows. Changes after the position are not in it yet."""

    txid: int
    position: int
    complete: bool
    late_s: float
    files: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The part of the catalog that a page is taken from: the next rows in order, or those up to `until`, or any `most`
    matches. Else all of it."""

    rows: int | None = None
    until: tuple[Any, str] | None = None
    most: int | None = None


class Explain(Executable, ClauseElement):
    """EXPLAIN of a statement, in JSON."""

    inherit_cache = False

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement


@compiles(Explain)
def _explain(element: Explain, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.statement, **options)}"


def is_by_words(wanted: Search, indexed: Indexed) -> bool:
    """True if the page is found in `file_search`. Rows of its earlier version have no more than words and `created_at`."""
    others = (wanted.filename, wanted.tags, wanted.content_type, wanted.owner, wanted.sort != "created_at")
    return wanted.q is not None and not wanted.metadata and (indexed.complete or not any(others))


def ordered_statement(wanted: Search) -> Select[Any]:
    """All conditions are on columns with ordered indexes and good statistics: PostgreSQL chooses well."""
    conditions = [*_conditions(wanted, files), *_ranges(wanted, files), *_between(wanted, files)]
    statement = select(*_columns(wanted, files)).where(*conditions)
    return statement.order_by(*_order(wanted, files)).limit(wanted.limit + 1)


def page_statement(wanted: Search, indexed: Indexed, part: Part) -> Select[Any]:
    """A page out of `files`. `matches`: how many rows it was taken from, counted only if `part.most` bounds them."""
    if part.rows is not None:
        near = _next_rows(wanted, files, part.rows).subquery("near")
        words: Select[Any] = select(literal_column("1")).where(
            file_search.c.file_id == near.c.file_id, _has_words(wanted)
        )
        inner = select(near).where(*_conditions(wanted, near), *_ranges(wanted, near))
        matching = inner.where(words.offset(FENCE).exists()) if wanted.q is not None else inner
    else:
        inner = _matching(wanted, files, select(files)).where(*_candidates(wanted, indexed, part.until))
        matching = _fenced(inner.where(*_between(wanted, files, part.until)), part)
    found = matching.subquery("matching")
    return select(*_columns(wanted, found), _matches(part)).order_by(*_order(wanted, found)).limit(wanted.limit + 1)


def words_statement(wanted: Search, part: Part) -> Select[Any]:
    """A page out of `file_search`. `attributes` is null for a file that was deleted, or does not match any more."""
    if part.rows is not None:
        near = _next_rows(wanted, file_search, part.rows).subquery("near")
        matching = select(near.c.file_id, near.c[wanted.sort]).where(*_search_conditions(wanted, near))
    else:
        found = select(file_search.c.file_id, file_search.c[wanted.sort])
        inner = found.where(*_search_conditions(wanted, file_search), *_grams(wanted, part.until))
        matching = _fenced(inner.where(*_between(wanted, file_search, part.until)), part)
    every = matching.subquery("matching")
    first = select(every, _matches(part)).order_by(*_order(wanted, every)).limit(wanted.limit + 1 + SPARE_ROWS)
    page = first.subquery("page")
    columns = files.c.attributes, page.c.file_id, page.c[wanted.sort].label("sort_value"), page.c.matches
    same = and_(files.c.file_id == page.c.file_id, *_conditions(wanted, files))
    return select(*columns).join_from(page, files, same, isouter=True).order_by(*_order(wanted, page))


def boundary_statement(wanted: Search, rows: int) -> Select[Any]:
    """The sort value and id of the row that many rows after the cursor, from an index alone."""
    bounds = [condition for name, condition in _named_ranges(wanted, files) if name == wanted.sort]
    statement = select(files.c[wanted.sort], files.c.file_id).where(*bounds, *_between(wanted, files))
    return statement.order_by(*_order(wanted, files)).offset(rows).limit(1)


def estimate_statement(wanted: Search, indexed: Indexed) -> Explain:
    """Ranges of the sort column are left out: what counts is how dense the matches are among its values. So are trigrams:
    PostgreSQL takes them for independent of each other."""
    source = file_search if is_by_words(wanted, indexed) else files
    return Explain(_matching(wanted, source, select(literal_column("1")), without=wanted.sort))


def count_statement(wanted: Search, indexed: Indexed, most: int) -> Select[Any]:
    by_words = is_by_words(wanted, indexed)
    matching = _matching(wanted, file_search if by_words else files, select(literal_column("1")))
    matching = matching.where(*(_grams(wanted) if by_words else _candidates(wanted, indexed)))
    return select(func.count()).select_from(matching.limit(most).subquery("matching"))


def _matching(wanted: Search, source: FromClause, statement: Select[Any], without: str | None = None) -> Select[Any]:
    if source is file_search:
        return statement.select_from(file_search).where(*_search_conditions(wanted, file_search, without))
    statement = statement.select_from(files).where(*_conditions(wanted, files), *_ranges(wanted, files, without))
    if wanted.q is None:
        return statement
    return statement.join_from(files, file_search, (file_search.c.file_id == files.c.file_id) & _has_words(wanted))


def _next_rows(wanted: Search, source: FromClause, rows: int) -> Select[Any]:
    bounds = [condition for name, condition in _named_ranges(wanted, source) if name == wanted.sort]
    inner = select(source).where(*bounds, *_between(wanted, source))
    return inner.order_by(*_order(wanted, source)).limit(rows)


def _fenced(statement: Select[Any], part: Part) -> Select[Any]:
    return statement.offset(FENCE) if part.most is None else statement.limit(part.most + 1)


def _matches(part: Part) -> ColumnElement[Any]:
    return (func.count().over() if part.most is not None else literal_column("0")).label("matches")


def _columns(wanted: Search, source: FromClause) -> Sequence[ColumnElement[Any]]:
    return source.c.attributes, source.c.file_id, source.c[wanted.sort].label("sort_value")


def _order(wanted: Search, source: FromClause) -> Sequence[ColumnElement[Any]]:
    columns = source.c[wanted.sort], source.c.file_id
    return [one.desc() for one in columns] if wanted.descending else columns


def _between(wanted: Search, source: FromClause, until: tuple[Any, str] | None = None) -> list[ColumnElement[bool]]:
    """After the last file of the previous page, in order, and up to `until`."""
    sorted_by, file_id = source.c[wanted.sort], source.c.file_id
    here = tuple_(sorted_by, file_id)

    def there(value: Any, last_id: str) -> Any:
        return tuple_(literal(value, sorted_by.type), literal(last_id, file_id.type))

    conditions: list[ColumnElement[bool]] = []
    if wanted.cursor is not None:
        value = wanted.cursor.value
        after = there(parse_rfc3339(str(value)) if wanted.sort in TIMES else value, wanted.cursor.file_id)
        conditions.append(here < after if wanted.descending else here > after)
    if until is not None:
        conditions.append(here >= there(*until) if wanted.descending else here <= there(*until))
    return conditions


def _search_conditions(wanted: Search, source: FromClause, without: str | None = None) -> list[ColumnElement[bool]]:
    """All but the trigrams, for `file_search`: its index of words has the filters too."""
    terms = [term("tag", tag) for tag in wanted.tags]
    if wanted.owner is not None:
        terms.append(term("owner", wanted.owner))
    if wanted.content_type is not None:
        terms.append(term("type", essence_of(wanted.content_type)))
    conditions = [source.c.words.bool_op("@@")(_tsquery(wanted.q, terms)), *_ranges(wanted, source, without)]
    if wanted.filename is not None:
        conditions.append(_contains(source, wanted.filename))
    return conditions


def _has_words(wanted: Search) -> ColumnElement[bool]:
    return file_search.c.words.bool_op("@@")(_tsquery(wanted.q))


def _grams(wanted: Search, until: tuple[Any, str] | None = None) -> list[ColumnElement[bool]]:
    """In a window one trigram is enough. PostgreSQL takes several for independent, and would not use the window's index."""
    grams = grams_of(wanted.filename) if wanted.filename else []
    grams = grams[:1] if until is not None else grams[:: -(-len(grams) // MAX_GRAMS) or 1]
    return [file_search.c.name_grams.contains(cast(grams, ARRAY(Integer)))] if grams else []


def _candidates(wanted: Search, indexed: Indexed, until: tuple[Any, str] | None = None) -> list[ColumnElement[bool]]:
    """Files whose name has all trigrams of the wanted part, and all that the index does not have yet: a late index hides
    no file. Empty if all files are candidates."""
    grams = _grams(wanted, until)
    if not grams or not indexed.complete:
        return []
    done = tuple_(literal(indexed.txid), literal(indexed.position))
    late = select(changes.c.file_id).where(tuple_(changes.c.txid, changes.c.position) > done)
    near = _between(wanted, file_search, until)
    return [files.c.file_id.in_(union_all(select(file_search.c.file_id).where(*grams, *near), late))]


def _conditions(wanted: Search, source: FromClause) -> list[ColumnElement[bool]]:
    """All but those of `q` and the ranges, for `files`."""
    c = source.c
    conditions: list[ColumnElement[bool]] = [c.state == AVAILABLE]
    if wanted.content_type is not None:
        conditions.append(func.split_part(c.content_type, ";", 1) == essence_of(wanted.content_type))
        if ";" in wanted.content_type:
            conditions.append(c.content_type == wanted.content_type)
    if wanted.owner is not None:
        conditions.append(c.owner == wanted.owner)
    if wanted.filename is not None:
        conditions.append(_contains(source, wanted.filename))
    if wanted.tags:
        conditions.append(c.tags.contains(list(wanted.tags)))
    return conditions + [_metadata_is(c.metadata, key, value) for key, value in wanted.metadata.items()]


def _contains(source: FromClause, part: str) -> ColumnElement[bool]:
    return source.c.filename.icontains(part, autoescape=True)


def _ranges(wanted: Search, source: FromClause, without: str | None = None) -> list[ColumnElement[bool]]:
    return [condition for name, condition in _named_ranges(wanted, source) if name != without]


def _named_ranges(wanted: Search, source: FromClause) -> list[tuple[str, ColumnElement[bool]]]:
    """With the name of the column."""
    created_at, size_bytes = source.c.created_at, source.c.size_bytes
    ranges: list[tuple[str, ColumnElement[bool]]] = []
    if wanted.created_from is not None:
        ranges.append(("created_at", created_at >= wanted.created_from))
    if wanted.created_to is not None:
        ranges.append(("created_at", created_at < wanted.created_to))
    if wanted.size_min is not None:
        ranges.append(("size_bytes", size_bytes >= wanted.size_min))
    if wanted.size_max is not None:
        ranges.append(("size_bytes", size_bytes <= wanted.size_max))
    return ranges


def _tsquery(query: TextQuery | None, terms: Sequence[str] = ()) -> ColumnElement[Any]:
    """Combines the words and the terms. Nothing matches it if there are no words."""
    if query is None or query == TextQuery():
        return cast("", TSQUERY)
    parts: list[ColumnElement[Any]] = []
    if query.stemmed:
        parts.append(_stems(query.stemmed))
    if query.last_stemmed:
        beginning: ColumnElement[Any] = cast(query.last_prefix, TSQUERY)
        if query.last_before:
            beginning = _stems(query.last_before).op("&&")(beginning)
        parts.append(_stems(query.last_stemmed).op("||")(beginning))
    parts += [cast(f"'{one}'", TSQUERY) for one in terms]
    return reduce(lambda both, part: both.op("&&")(part), parts)


def _stems(words: str) -> ColumnElement[Any]:
    return func.to_tsquery(literal_column("'artstore'"), words)


def _metadata_is(metadata: ColumnElement[Any], key: str, value: str) -> ColumnElement[bool]:
    """Containment, which the index supports. A query string has no types: 5 finds "5" and 5, true finds "true" and true."""
    readings: list[Any] = [value]
    try:
        typed = orjson.loads(value)
    except orjson.JSONDecodeError:
        typed = value
    if isinstance(typed, bool | int | float) or typed is None:
        readings.append(typed)
    return or_(*(metadata.contains({key: reading}) for reading in readings))
