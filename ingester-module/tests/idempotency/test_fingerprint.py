from __future__ import annotations

from typing import Any

import pytest

from app.changes.wish import Wish
from app.idempotency.fingerprint import of_content, of_delete, of_patch, of_upload
from app.uploads.body import Body, Opened
from artstore.contracts.files import Changes

FIELDS = {
    "tags": '["a", "b"]',
    "metadata": '{"n": 1, "m": {"x": 1, "y": 2}}',
    "retention": "temporary",
    "ttl_days": "3",
}


def opened(
    fields: dict[str, str], filename: str | None = "a.pdf", content_type: str | None = "application/pdf"
) -> Opened:
    body = Body(source=None, size_bytes=None, at_most_bytes=None, digests=())  # type: ignore[arg-type]
    return Opened(body, fields, filename, content_type)


def wish(file_id: str = "id", if_revisions: tuple[int, ...] | None = None) -> Wish:
    return Wish("another at each try", file_id, "somebody", if_revisions)


def test_the_same_request_written_otherwise_is_the_same() -> None:
    otherwise = {**FIELDS, "tags": '["a","b"]', "metadata": '{"m":{"y":2,"x":1},"n":1}'}
    first = of_upload(opened(FIELDS))
    assert of_upload(opened(dict(reversed(otherwise.items())))) == first
    assert of_upload(opened({**FIELDS, "filename": "a.pdf"}, filename="of the part")) == first
    assert of_upload(opened({}, content_type=None)) == of_upload(opened({}, content_type="application/octet-stream"))
    assert of_upload(opened({}, filename=None)) == of_upload(opened({}, filename=None))
    assert of_patch(wish(), Changes(metadata={"a": 1, "b": 2})) == of_patch(wish(), Changes(metadata={"b": 2, "a": 1}))


@pytest.mark.parametrize(
    "other",
    [
        opened({**FIELDS, "tags": '["b", "a"]'}),
        opened({**FIELDS, "metadata": "{}"}),
        opened({**FIELDS, "ttl_days": "4"}),
        opened({name: FIELDS[name] for name in ("tags", "metadata")}),
        opened(FIELDS, filename="b.pdf"),
        opened(FIELDS, filename=None),
        opened(FIELDS, content_type="text/plain"),
    ],
)
def test_other_fields_are_another_upload(other: Opened) -> None:
    assert of_upload(other) != of_upload(opened(FIELDS))


def test_requests_of_different_routes_files_and_conditions_differ() -> None:
    asked: list[Any] = [of_upload(opened({}))]
    for file_id in ("one", "two"):
        for condition in (None, (1,), (2,), (1, 2)):
            mine = wish(file_id, condition)
            asked += [of_delete(mine), of_content(mine, None), of_content(mine, "text/plain")]
            asked += [of_patch(mine, wanted) for wanted in (Changes(), Changes(tags=[]), Changes(metadata={}))]
    assert len(set(asked)) == len(asked)
