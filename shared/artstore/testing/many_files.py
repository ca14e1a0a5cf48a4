"""Fills the catalog with many files by SQL, in seconds: rows like those of an office, without bytes on any element."""

from __future__ import annotations

import random
from itertools import accumulate
from typing import Any

import asyncpg
import orjson

from artstore.catalog.search_index import WORDS_VECTOR
from artstore.catalog.words import grams_of, terms_of, words_of_file

COMMON = [
    "договор", "счёт", "акт", "накладная", "приказ", "отчёт", "смета", "протокол", "заявление", "справка",
    "доверенность", "ведомость", "паспорт", "письмо", "план", "scan", "report", "invoice", "contract",
    "photo", "backup", "draft", "final", "signed", "copy", "meeting", "budget", "letter",
]  # fmt: skip
SYLLABLES = [
    "ба", "ве", "ги", "до", "жу", "за", "ки", "ла", "ме", "но", "по", "ра", "си", "та", "фе", "хо", "ца",
    "ше", "ый", "ов", "ин", "ко", "ст", "ря", "му", "лю",
]  # fmt: skip
ENDINGS = (".pdf", ".pdf", ".docx", ".xlsx", ".jpg", ".txt")
TYPES = {".pdf": "application/pdf", ".docx": "application/msword", ".xlsx": "application/vnd.ms-excel",
         ".jpg": "image/jpeg", ".txt": "text/plain; charset=utf-8"}  # fmt: skip
BATCH = 5_000
TABLES = ("files", "file_search")

_SAMPLES = f"""CREATE TEMPORARY TABLE samples AS
    SELECT number, filename, content_type, tags, metadata, name_grams,
        {WORDS_VECTOR} AS words
    FROM jsonb_to_recordset($1) AS entry(number integer, filename text, content_type text, tags text[], metadata jsonb,
        name_grams integer[], words text, terms text)"""
_ADD_SAMPLES = _SAMPLES.replace("CREATE TEMPORARY TABLE samples AS", "INSERT INTO samples")
# A UUIDv7 begins with its time, as the ids of the ingester do.
_FILES = """INSERT INTO files (file_id, revision, state, storage_element_id, attributes, filename, content_type, size_bytes,
        owner, tags, metadata, created_at, updated_at, checked_at)
    SELECT CAST(lpad(to_hex(1767225600000 + n * 1000), 12, '0') || '7000' || '8' || substr(md5(CAST(n AS text)), 1, 15) AS uuid),
        1, 'available', 'elsewhere',
        CAST(json_build_object('filename', filename, 'tags', tags, 'metadata', metadata, 'padding', repeat('x', 300)) AS text),
        filename, content_type, CAST(hashint8(n) AS bigint) + 2147483648, 'owner-' || n % 50, tags, metadata,
        to_timestamp(1767225600 + n), to_timestamp(1767225600 + n), now()
    FROM generate_series($1::bigint, $2::bigint) AS n JOIN samples ON samples.number = abs(hashint8(n + 7)) % $3::integer"""
_INDEX = """INSERT INTO file_search (file_id, revision, words, name_grams, created_at, updated_at, filename, size_bytes)
    SELECT file_id, 1, words || array_to_tsvector(ARRAY['=owner=' || left(md5(owner), 16)]), name_grams, created_at, updated_at,
        files.filename, size_bytes FROM files
    JOIN samples ON samples.number = CAST(files.metadata ->> 'number' AS integer) ON CONFLICT DO NOTHING"""
_INDEXES = """SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN ('files', 'file_search')
    AND schemaname = current_schema() AND indexname NOT LIKE '%_pkey'"""


async def fill_catalog(url: str, rows: int, samples: int) -> None:
    """`samples` are the different files; each is repeated with other ids, owners, sizes and times. Statistics are current
    afterwards, and nothing is left for the index of words to do. Needs the rights of the tables' owner."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    entries = _make_samples(samples)
    try:
        await connection.execute("SET maintenance_work_mem = '256MB'")
        async with connection.transaction():
            await connection.execute("ALTER TABLE files DISABLE TRIGGER USER")
            for table in TABLES:
                await connection.execute(f"ALTER TABLE {table} SET UNLOGGED")
            await connection.execute(_SAMPLES.replace("$1", "'[]'"))
            for at in range(0, samples, BATCH):
                await connection.execute(_ADD_SAMPLES, orjson.dumps(entries[at : at + BATCH]).decode())
            await connection.execute("ANALYZE samples")
            indexes = await connection.fetch(_INDEXES)
            for index in indexes:
                await connection.execute(f"DROP INDEX {index['indexname']}")
            await connection.execute(_FILES, 1, rows, samples)
            await connection.execute(_INDEX)
            for index in indexes:
                await connection.execute(index["indexdef"])
            await connection.execute("UPDATE search_progress SET walked_to = NULL")
            await connection.execute("ALTER TABLE files ENABLE TRIGGER USER")
            await connection.execute("DROP TABLE samples")
        for table in TABLES:
            await connection.execute(f"VACUUM (ANALYZE) {table}")
    finally:
        await connection.close()


def rare_words() -> list[str]:
    """The more frequent ones first."""
    chosen = random.Random(10)
    return ["".join(chosen.choices(SYLLABLES, k=chosen.randint(2, 4))) for _ in range(20_000)]


def _make_samples(count: int) -> list[dict[str, Any]]:
    """Words by Zipf's law: a few are in every third file, most are rare."""
    chosen, rare = random.Random(20), rare_words()
    words = [*COMMON, *rare]
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(words))))
    entries = []
    for number in range(count):
        ending = chosen.choice(ENDINGS)
        said = chosen.choices(words, cum_weights=weights, k=chosen.randint(2, 5))
        filename = (
            f"{'_'.join(said).capitalize()} {chosen.randint(2015, 2026)}-{chosen.randint(1, 12):02} №{number}{ending}"
        )
        tags = chosen.choices(words, cum_weights=weights, k=chosen.randint(0, 3))
        metadata = {"number": str(number), "customer": " ".join(chosen.choices(rare, k=2)), "approved": number % 3 == 0}
        entries.append(
            {
                "number": number,
                "filename": filename,
                "content_type": TYPES[ending],
                "tags": tags,
                "metadata": metadata,
                "words": words_of_file(filename, tags, metadata),
                "terms": " ".join(terms_of("", TYPES[ending], tags)[1:]),
                "name_grams": grams_of(filename),
            }
        )
    return entries
