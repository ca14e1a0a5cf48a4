"""Lists out of a real catalog over HTTP."""

from __future__ import annotations

import unicodedata
from typing import Any, Literal

import pytest
from tests.rig import Rig

from artstore.clock import uuid7
from artstore.contracts.files import Attributes
from artstore.testing.fakes import new_file

Parameters = dict[str, Any]


async def listed(rig: Rig, **parameters: Any) -> list[str]:
    """All names, page by page."""
    names: list[str] = []
    while True:
        answer = await rig.client.get("/api/files", params=parameters)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        names += [item["filename"] for item in page["items"]]
        if page["next_cursor"] is None:
            return names
        parameters["cursor"] = page["next_cursor"]


async def stored(rig: Rig, *changes: dict[str, Any]) -> list[Attributes]:
    """Each a second younger than the one before it."""
    files = []
    for number, change in enumerate(changes):
        created_at = f"2026-01-01T00:00:{number:02}.000000Z"
        files.append(new_file(b"x" * number, created_at=created_at, **change))
    await rig.note(*files)
    return files


FILES: list[dict[str, Any]] = [
    {"filename": "Договор №5.pdf", "tags": ["contract", "2026"], "metadata": {"number": "5"}},
    {"filename": "договор 100%.pdf", "tags": ["contract"], "metadata": {"number": 5, "signed": True}},
    {"filename": "photo_1.jpg", "content_type": "image/jpeg", "owner": "camera"},
    {"filename": "photoX1.jpg", "content_type": "image/jpeg", "metadata": {"a.b": None}},
]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, [3, 2, 1, 0]),
        ({"filename": "Договор"}, [1, 0]),
        ({"filename": "договор №"}, [0]),
        ({"filename": "100%"}, [1]),
        ({"filename": "photo_1"}, [2]),
        ({"filename": "nothing"}, []),
        ({"tag": "contract"}, [1, 0]),
        ({"tag": ["contract", "2026"]}, [0]),
        ({"content_type": "image/jpeg"}, [3, 2]),
        ({"owner": "camera"}, [2]),
        ({"metadata.number": "5"}, [1, 0]),
        ({"metadata.signed": "true"}, [1]),
        ({"metadata.a.b": "null"}, [3]),
        ({"metadata.number": "6"}, []),
        ({"created_from": "2026-01-01T00:00:01Z", "created_to": "2026-01-01T00:00:03Z"}, [2, 1]),
        ({"size_min": 1, "size_max": 2}, [2, 1]),
        ({"sort": "size_bytes"}, [0, 1, 2, 3]),
        ({"sort": "-size_bytes", "tag": "contract"}, [1, 0]),
        ({"sort": "created_at"}, [0, 1, 2, 3]),
    ],
)
async def test_filters_select_files(rig: Rig, parameters: Parameters, expected: list[int]) -> None:
    await stored(rig, *FILES)
    assert await listed(rig, **parameters) == [FILES[number]["filename"] for number in expected]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("text/plain", [4, 3, 2, 1, 0]),
        ("TEXT/PLAIN", [4, 3, 2, 1, 0]),
        ("text/plain;charset=utf-8", [1]),
        ("Text/Plain; Charset=UTF-8", [2]),
        ("text/html", []),
        ("text/plai", []),
    ],
)
async def test_a_content_type_is_found_with_any_parameters_and_case(rig: Rig, wanted: str, expected: list[int]) -> None:
    types = ["text/plain", "text/plain; charset=utf-8", "Text/Plain;charset=UTF-8", "text/plain;", "text/plain; name=Д"]
    files = await stored(rig, *({"filename": f"{n}.txt", "content_type": kind} for n, kind in enumerate(types)))
    await stored(rig, {"filename": "other", "content_type": "text/plainer"})
    assert await listed(rig, content_type=wanted) == [files[number].filename for number in expected]


@pytest.mark.parametrize("typed", ["NFC", "NFD"])
@pytest.mark.parametrize("word", ["отчёт", "Йод", "테스트", "café", "a\u0323\u0307"])
async def test_text_is_found_in_any_unicode_normal_form(rig: Rig, word: str, typed: Literal["NFC", "NFD"]) -> None:
    forms: list[Literal["NFC", "NFD"]] = ["NFC", "NFD"]
    files = await stored(
        rig,
        *(
            {"filename": f"{sent}.pdf", "tags": [sent], "metadata": {sent: {"in": sent}, "k": sent}}
            for sent in (unicodedata.normalize(form, word) for form in forms)
        ),
    )
    asked = unicodedata.normalize(typed, word)
    expected = sorted(file.filename for file in files)
    for parameters in ({"filename": asked}, {"tag": asked}, {"metadata.k": asked}):
        assert sorted(await listed(rig, **parameters)) == expected, parameters


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "filename", "-filename", "size_bytes", "-updated_at"])
async def test_pages_cover_everything_once_in_every_order(rig: Rig, sort: str) -> None:
    files = [
        new_file(b"x" * (n % 3), filename=f"name {n % 4}", created_at=f"2026-01-01T00:00:0{n % 5}.5Z")
        for n in range(23)
    ]
    await rig.note(*files)
    seen: list[str] = []
    parameters: Parameters = {"sort": sort, "limit": 4}
    while True:
        page = (await rig.client.get("/api/files", params=parameters)).json()
        assert len(page["items"]) <= 4
        seen += [item["file_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        parameters["cursor"] = page["next_cursor"]
    assert len(seen) == len(set(seen)) == 23


async def test_files_uploaded_between_two_pages_do_not_shift_them(rig: Rig) -> None:
    files = await stored(rig, *({"filename": f"{n}"} for n in range(6)))
    first = (await rig.client.get("/api/files", params={"limit": 3})).json()
    await rig.note(*(new_file(b"new", filename="new") for _ in range(5)))
    second = (await rig.client.get("/api/files", params={"limit": 3, "cursor": first["next_cursor"]})).json()
    names = [item["filename"] for item in first["items"] + second["items"]]
    assert names == [file.filename for file in reversed(files)]


async def test_an_uncommitted_upload_is_not_listed(rig: Rig) -> None:
    await rig.note(new_file(b"x"), saga_id=str(uuid7()))
    assert await listed(rig) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"q": ""},
        {"count": "yes"},
        {"limit": 0},
        {"limit": 1001},
        {"colour": "red"},
        {"cursor": "x"},
        {"sort": "x"},
    ],
)
async def test_unknown_parameters_are_refused(rig: Rig, wrong: Parameters) -> None:
    answer = await rig.client.get("/api/files", params=wrong)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields")
    assert answer.json()["fields"] == list(wrong)


async def test_the_document_describes_every_endpoint(rig: Rig) -> None:
    paths = (await rig.get("/openapi.json")).json()["paths"]
    described = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    assert {
        "GET /api/files",
        "GET /api/files/{file_id}",
        "GET /api/files/{file_id}/content",
        "HEAD /api/files/{file_id}/content",
    } <= described
