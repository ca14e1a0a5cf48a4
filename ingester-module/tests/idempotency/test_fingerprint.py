from __future__ import annotations

from typing import Any

import pytest

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


def test_the_same_request_written_otherwise_is_the_same() -> None:
    otherwise = {**FIELDS, "tags": '["a","b"]', "metadata": '{"m":{"y":2,"x":1},"n":1}'}
    first = of_upload(opened(FIELDS))
    assert of_upload(opened(dict(reversed(otherwise.items())))) == first
    assert of_upload(opened({**FIELDS, "filename": "a.pdf"}, filename="of the part")) == first
    assert of_upload(opened({}, content_type=None)) == of_upload(opened({}, content_type="application/octet-stream"))
    assert of_upload(opened({}, filename=None)) == of_upload(opened({}, filename=None))
    assert of_patch("id", None, Changes(metadata={"a": 1, "b": 2})) == of_patch(
        "id", None, Changes(metadata={"b": 2, "a": 1})
    )


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
        for condition in (None, '"1"', '"2"'):
            asked += [of_patch(file_id, condition, Changes()), of_delete(file_id, condition)]
            asked += [
                of_patch(file_id, condition, Changes(tags=[])),
                of_patch(file_id, condition, Changes(metadata={})),
            ]
            asked += [of_content(file_id, condition, None), of_content(file_id, condition, "text/plain")]
    assert len(set(asked)) == len(asked)
