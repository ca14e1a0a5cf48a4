"""Full-text search by `q`, out of a real catalog over HTTP."""

from __future__ import annotations

import random
import unicodedata
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from tests.rig import Rig, running

from app.search.text_query import parse_text
from artstore.clock import uuid7
from artstore.contracts.files import Attributes
from artstore.testing.fakes import new_file
from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer

NAME = "Договор_2024-05.v2.pdf"
HOSTILE = ["'", "''", "\\", "\\'", "a' | 'b", "a:*", "!", "& | ! ( ) <->", "'); DROP TABLE files --", "%", "_", "$1", ":a", "{}",
    "\u202e", "\ufeff", "e\u0301", "\U0001f600", "a\u0000"]  # fmt: skip


async def found(rig: Rig, **parameters: Any) -> set[str]:
    answer = await rig.client.get("/api/files", params=parameters)
    assert answer.status_code == 200, answer.text
    assert "x-artstore-degraded" not in answer.headers
    return {item["filename"] for item in answer.json()["items"]}


async def stored(rig: Rig, *changes: dict[str, Any]) -> list[Attributes]:
    files = [new_file(b"x", **change) for change in changes]
    await rig.note(*files)
    await rig.index()
    return files


@pytest.mark.parametrize(
    "q",
    ["договор", "ДОГОВОРА", "договоры 2024", "2024", "pdf", "pdf договор", "v2", "дого", "2024 pd", "2024-05", "05.v2", NAME,
     "Договор_2024-05.v2.pd", '"договор 2024"', '"Договоры 2024-05"', "договор -акт",
     'договор -"2024 договор"', "  pdf  ", "-акт"],
)  # fmt: skip
async def test_a_name_is_found_by_its_words_their_forms_and_the_beginning_of_the_last(rig: Rig, q: str) -> None:
    await stored(rig, {"filename": NAME})
    assert await found(rig, q=q) == {NAME}


@pytest.mark.parametrize(
    "q",
    [
        "оговор",
        "дого pdf",
        "акт",
        "договор акт",
        '"2024 договор"',
        '"дого"',
        "договор -pdf",
        'pdf -"v2 pdf"',
        "202 pdf",
    ],
)
async def test_other_words_parts_and_excluded_words_do_not_find_it(rig: Rig, q: str) -> None:
    await stored(rig, {"filename": NAME})
    assert await found(rig, q=q) == set()


@pytest.mark.parametrize(
    ("kept", "q"),
    [
        ({"filename": "running shoes.txt"}, "run"),
        ({"filename": "running shoes.txt"}, "runni"),
        ({"filename": "the report of a year"}, '"the report of a year"'),
        ({"filename": "x", "tags": ["Аренда офиса"]}, "аренды"),
        ({"filename": "x", "metadata": {"customer": {"names": ["Иванов и сыновья"]}}}, "сыновья"),
        ({"filename": "x", "metadata": {"number": 2**63 - 1}}, "9223372036854775807"),
        ({"filename": "Счёт за июнь"}, "счета"),
        ({"filename": "Счет за июнь"}, "счёт"),
        ({"filename": "Café crème"}, "cafe creme"),
        ({"filename": "cafe"}, "café"),
        ({"filename": "Йод и май"}, "йод"),
        ({"filename": "STRASSE"}, "straße"),
        ({"filename": "x", "tags": ["a" * 300]}, "a" * 300),
        ({"filename": "№17"}, "17"),
    ],
)
async def test_words_of_name_tags_and_metadata_are_found(rig: Rig, kept: dict[str, Any], q: str) -> None:
    await stored(rig, kept, {"filename": "other"})
    assert await found(rig, q=q) == {kept["filename"]}


async def test_truth_values_of_metadata_are_not_searched(rig: Rig) -> None:
    await stored(rig, {"filename": "x", "metadata": {"key": True, "none": None}})
    assert [await found(rig, q=q) for q in ("key", "none", "true", "null")] == [{"x"}, {"x"}, set(), set()]


FIELDS: dict[str, Any] = {
    "filename": "one two.txt",
    "tags": ["three", "four"],
    "metadata": {"five": "six", "seven": ["eight", "nine"], "ten": {"eleven": 12}},
}


@pytest.mark.parametrize(
    "q", ['"one two txt"', '"five six"', '"seven nine"', '"eleven 12"', "two three six", "ten twelve -12"]
)
@pytest.mark.parametrize("extra", [[], ["twelve"]])
async def test_a_phrase_is_found_within_a_text_and_after_its_key(rig: Rig, q: str, extra: list[str]) -> None:
    await stored(rig, {**FIELDS, "tags": [*FIELDS["tags"], *extra], "metadata": {**FIELDS["metadata"], "n": "twelve"}})
    assert await found(rig, q=q) == (set() if "-12" in q else {"one two.txt"})


@pytest.mark.parametrize(
    "q", ['"txt three"', '"three four"', '"four five"', '"six seven"', '"eight nine"', '"eight seven"', '"ten eleven"']
)
async def test_a_phrase_does_not_span_two_texts(rig: Rig, q: str) -> None:
    await stored(rig, FIELDS)
    assert await found(rig, q=q) == set()
    assert await found(rig, q=q.replace('"', "")) == {"one two.txt"}


async def test_words_and_all_filters_together_find_exactly_the_files_that_match_each(rig: Rig) -> None:
    wanted: dict[str, Any] = {
        "filename": "Report 1.txt",
        "owner": "a b'\\",
        "tags": ["x", "y'z"],
        "content_type": "text/plain; charset=utf-8",
    }
    others = [
        {**wanted, **different}
        for different in (
            {"owner": "other"},
            {"tags": ["x"]},
            {"content_type": "text/html"},
            {"filename": "paper 1.txt"},
            {"metadata": {"k": "other"}},
        )
    ]
    files = await stored(rig, *({"metadata": {"k": "v"}, **file} for file in [wanted, *others]))
    asked = {
        "q": "report",
        "owner": "a b'\\",
        "tag": ["x", "y'z"],
        "content_type": "text/plain",
        "filename": "port 1",
        "metadata.k": "v",
    }
    for left_out in (None, "metadata.k"):
        for sort in ("created_at", "-updated_at", "filename", "-size_bytes"):
            parameters = {name: value for name, value in asked.items() if name != left_out}
            answer = await rig.client.get("/api/files", params={**parameters, "sort": sort, "count": "true"})
            expected = {files[0].file_id} | ({files[-1].file_id} if left_out else set())
            assert {item["file_id"] for item in answer.json()["items"]} == expected
            assert answer.json()["total"] == len(expected)


async def test_rows_of_an_earlier_index_are_found_until_they_are_replaced(rig: Rig) -> None:
    await stored(rig, {"filename": "report 2", "tags": ["a"]}, {"filename": "report 1", "tags": ["a"]})
    async with rig.engine.begin() as connection:
        await connection.execute(text("UPDATE file_search SET size_bytes = -1, filename = '', updated_at = 'epoch', "
            "words = (SELECT to_tsvector('artstore', 'report'))"))  # fmt: skip
        await connection.execute(text("UPDATE search_progress SET walked_to = '00000000-0000-0000-0000-000000000000'"))
    for parameters in (
        {},
        {"tag": "a"},
        {"sort": "filename"},
        {"sort": "-size_bytes", "filename": "EPO"},
        {"limit": "1"},
    ):
        answer = await rig.client.get("/api/files", params={"q": "report", "count": "true", **parameters})
        assert answer.headers["x-artstore-degraded"] == "search"
        assert answer.json()["total"] == 2
        assert len(answer.json()["items"]) == int(parameters.get("limit", 2))
    await rig.index()
    assert await found(rig, q="report", tag="a", sort="filename") == {"report 1", "report 2"}
    assert await found(rig, q="2 report") == {"report 2"}


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
@pytest.mark.parametrize("word", ["отчёт", "Йод", "테스트", "café", "ÅNGSTRÖM"])
async def test_q_finds_any_normal_form_and_case(rig: Rig, word: str, typed: Literal["NFC", "NFD"]) -> None:
    forms: list[Literal["NFC", "NFD"]] = ["NFC", "NFD"]
    names = [unicodedata.normalize(form, f"{word} {form}") for form in forms]
    await stored(rig, *({"filename": name} for name in names))
    for asked in (word, word.lower(), word.upper()):
        assert await found(rig, q=unicodedata.normalize(typed, asked)) == set(names)


async def test_an_updated_file_is_found_by_its_new_words_and_a_deleted_one_by_none(rig: Rig) -> None:
    (file,) = await stored(rig, {"filename": "before"})
    fields = {name: getattr(file, name) for name in file.__struct_fields__}
    await rig.note(Attributes(**(fields | {"filename": "after", "revision": 2})))
    await rig.index()
    assert (await found(rig, q="before"), await found(rig, q="after")) == (set(), {"after"})
    async with rig.engine.begin() as connection:
        await connection.execute(text("DELETE FROM files"))
    assert await found(rig, q="after") == set()
    await rig.index()
    async with rig.engine.begin() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM file_search"))).scalar_one() == 0


async def test_a_late_index_hides_no_file_from_lists_without_q(rig: Rig) -> None:
    await stored(rig, {"filename": "indexed report.txt", "tags": ["a"]})
    await rig.note(new_file(b"x", filename="late report.txt", tags=["a"]))
    assert (
        await found(rig, filename="Report.") == await found(rig, tag="a") == {"indexed report.txt", "late report.txt"}
    )
    assert await found(rig, q="report") == {"indexed report.txt"}
    await rig.index()
    assert await found(rig, q="report") == {"indexed report.txt", "late report.txt"}


async def test_a_search_says_that_the_index_is_incomplete(rig: Rig) -> None:
    await rig.note(new_file(b"x", filename="report"))
    for change in ("txid = 0, walked_to = '00000000-0000-0000-0000-000000000000'", "walked_to = NULL"):
        async with rig.engine.begin() as connection:
            await connection.execute(text(f"UPDATE search_progress SET {change}"))
            await connection.execute(text("UPDATE changes SET at = now() - interval '1 minute'"))
        answer = await rig.client.get("/api/files", params={"q": "report"})
        assert answer.headers["x-artstore-degraded"] == "search"
        for parameters in ({}, {"filename": "report"}):
            answer = await rig.client.get("/api/files", params=parameters)
            assert "x-artstore-degraded" not in answer.headers
            assert len(answer.json()["items"]) == 1
    await rig.index()
    assert await found(rig, q="report") == {"report"}


async def test_total_counts_all_pages(rig: Rig) -> None:
    await stored(rig, *({"filename": f"report {n}", "tags": ["a"] * (n % 2)} for n in range(7)), {"filename": "other"})
    await rig.note(new_file(b"x", filename="report"), saga_id=str(uuid7()))
    for parameters, total in [({}, 8), ({"q": "report"}, 7), ({"filename": "REPO"}, 7), ({"tag": "a", "q": "rep"}, 3)]:
        first = (await rig.client.get("/api/files", params={**parameters, "limit": 2, "count": "true"})).json()
        second = await rig.client.get("/api/files", params={**parameters, "limit": 2, "cursor": first["next_cursor"]})
        assert (first["total"], first["total_is_exact"]) == (total, True)
        assert "total" not in second.json()


async def test_total_says_when_it_has_stopped_to_count(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await stored(rig, *({"filename": f"report {n}"} for n in range(4)))
    for most, total in [(3, {"total": 3, "total_is_exact": False}), (4, {"total": 4, "total_is_exact": True})]:
        monkeypatch.setattr("app.search.search.MAX_TOTAL", most)
        for parameters in ({}, {"q": "report"}, {"filename": "repo"}):
            answer = (await rig.client.get("/api/files", params={**parameters, "count": "true"})).json()
            assert {name: answer[name] for name in total} == total


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "filename", "-size_bytes", "updated_at"])
@pytest.mark.parametrize("every", [2, 97])
async def test_pages_of_frequent_and_of_rare_words_cover_everything_once(
    rig: Rig, sort: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frequent words are found along the order, rare ones in the index."""
    monkeypatch.setattr("app.search.search.FEW_MATCHES", 100)
    count = 1_500
    files = [
        new_file(
            b"x" * (n % 3),
            filename=f"{'word' if n % every == 0 else 'none'} {n % 7}",
            created_at=f"2026-01-01T00:{n % 60:02}:00Z",
        )
        for n in range(count)
    ]
    await rig.note(*files)
    await rig.index()
    async with rig.engine.begin() as connection:
        await connection.execute(text("ANALYZE files"))
    expected = {file.file_id for file in files if file.filename.startswith("word")}
    for parameters in ({"q": "wor"}, {"filename": "WORD"}):
        seen: list[str] = []
        asked: dict[str, Any] = {**parameters, "sort": sort, "limit": 400}
        while asked:
            page = (await rig.client.get("/api/files", params=asked)).json()
            seen += [item["file_id"] for item in page["items"]]
            asked = {**asked, "cursor": page["next_cursor"]} if page["next_cursor"] else {}
        assert len(seen) == len(set(seen))
        assert set(seen) == expected


@pytest.mark.parametrize("sort", ["created_at", "-updated_at", "filename", "-size_bytes"])
@pytest.mark.parametrize("parameters", [{}, {"q": "report"}, {"filename": "repo"}, {"tag": "a", "q": "repo"}])
async def test_pages_are_stable_while_files_come_and_go(rig: Rig, sort: str, parameters: dict[str, str]) -> None:
    chosen = random.Random(sort + str(parameters))

    def another() -> dict[str, Any]:
        moment = f"2026-01-01T00:00:{chosen.randrange(8):02}Z"
        return {"filename": f"report {chosen.randrange(4)}", "tags": ["a"], "created_at": moment}

    before = {file.file_id for file in await stored(rig, *(another() for _ in range(24)))}
    left, seen = set(before), []
    asked: dict[str, Any] = {**parameters, "sort": sort, "limit": 3}
    while asked:
        page = (await rig.client.get("/api/files", params=asked)).json()
        seen += [item["file_id"] for item in page["items"]]
        asked = {**asked, "cursor": page["next_cursor"]} if page["next_cursor"] else {}
        await stored(rig, another())
        gone = chosen.choice([*sorted(left), *seen[-1:]])  # also the file that the cursor names
        left.discard(gone)
        async with rig.engine.begin() as connection:
            await connection.execute(text("DELETE FROM files WHERE file_id = CAST(:gone AS uuid)"), {"gone": gone})
        if chosen.random() < 0.5:
            await rig.index()
    assert len(seen) == len(set(seen))
    assert left <= set(seen)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8), st.sampled_from(['"', "-", " ", "а"])), max_size=8
    )
)
def test_any_text_is_a_query_or_refused(parts: list[str]) -> None:
    try:
        query = parse_text("".join(parts))
    except ValueError:
        return
    for words in (query.stemmed, query.last_stemmed, query.last_before, query.last_prefix):
        outside = words.split("'")[::2]
        assert all(set(part) <= set(" &!<->():*") for part in outside)
        assert all(word.isalnum() for word in words.split("'")[1::2])


@pytest.mark.parametrize("parameter", ["q", "filename", "tag", "owner", "content_type", "metadata.k", "cursor", "sort"])
async def test_hostile_text_finds_nothing_or_is_refused_and_never_fails(rig: Rig, parameter: str) -> None:
    await stored(rig, {"filename": "untouched"})
    for hostile in [*HOSTILE, " ".join(HOSTILE[:-1]), "'" * 500, '"' * 500, "-" * 500, "(" * 500, "a-" * 15]:
        answer = await rig.client.get("/api/files", params={parameter: hostile, "count": "true"})
        assert answer.status_code in (200, 422), (hostile, answer.text)
        if answer.status_code == 200:
            assert answer.json()["items"] == [] or hostile in ("_", "%")
    assert await found(rig) == {"untouched"}


async def test_a_search_that_is_too_slow_has_its_own_error_and_is_no_outage(
    postgres: PostgresServer, valkey: ValkeyServer, signer: Signer
) -> None:
    async with running(postgres, valkey, signer, database_command_timeout_s=0.3) as rig:
        async with rig.engine.begin() as connection:
            await connection.execute(text("LOCK TABLE file_search IN ACCESS EXCLUSIVE MODE"))
            for _ in range(6):  # one more than opens a breaker
                answer = await rig.client.get("/api/files", params={"q": "word"})
                assert (answer.status_code, answer.json()["code"]) == (503, "search_too_slow")
                assert answer.headers["retry-after"]
                assert "x-artstore-degraded" not in answer.headers
            assert (await rig.client.get("/api/files")).status_code == 200
        assert (await rig.client.get("/api/files", params={"q": "word"})).status_code == 200
