from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from app.changes.asked import AskedChanges
from app.changes.change import Delete
from app.changes.conditional import Precondition
from app.changes.update import Patch, Replace
from app.uploads.body import Body, UploadRequest
from app.uploads.upload import UploadOperation
from artstore.auth.tokens import Principal
from artstore.clock import Clock
from artstore.contracts.tokens import Role

FIELDS = {
    "tags": '["a", "b"]',
    "metadata": '{"n": 1, "m": {"x": 1, "y": 2}}',
    "retention": "temporary",
    "ttl_days": "3",
}


NO_CONTEXT: Any = SimpleNamespace(sagas=None)
SOMEBODY = Principal("somebody", "0190-somebody", Role.USER, frozenset(), 0.0, 0.0)


def opened(
    fields: dict[str, str], filename: str | None = "a.pdf", content_type: str | None = "application/pdf"
) -> UploadRequest:
    body = Body(source=NO_CONTEXT, size_bytes=None, at_most_bytes=None, digests=())
    return UploadRequest(body, fields, filename, content_type, Clock().now())


def of_upload(opened: UploadRequest) -> str:
    return UploadOperation(NO_CONTEXT, opened, SOMEBODY.client_id).fingerprint()


def of_patch(changes: AskedChanges, file_id: str = "id", revisions: tuple[int, ...] | None = None) -> str:
    return Patch(NO_CONTEXT, file_id, SOMEBODY, Precondition(revisions), changes, datetime.now(UTC)).fingerprint()


def test_equal_requests_in_different_notation_have_one_fingerprint() -> None:
    reformatted = {**FIELDS, "tags": '["a","b"]', "metadata": '{"m":{"y":2,"x":1},"n":1}'}
    first = of_upload(opened(FIELDS))
    assert of_upload(opened(dict(reversed(reformatted.items())))) == first
    assert of_upload(opened({**FIELDS, "filename": "a.pdf"}, filename="of the part")) == first
    assert of_upload(opened({}, content_type=None)) == of_upload(opened({}, content_type="application/octet-stream"))
    assert of_upload(opened({}, filename=None)) == of_upload(opened({}, filename=None))
    assert of_patch(AskedChanges(metadata={"a": 1, "b": 2})) == of_patch(AskedChanges(metadata={"b": 2, "a": 1}))


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
def test_an_upload_with_other_fields_has_a_different_fingerprint(other: UploadRequest) -> None:
    assert of_upload(other) != of_upload(opened(FIELDS))


def test_requests_of_different_routes_files_and_conditions_differ() -> None:
    body = opened({}).body
    fingerprints = [of_upload(opened({}))]
    for file_id in ("one", "two"):
        for revisions in (None, (1,), (2,), (1, 2)):
            condition = Precondition(revisions)
            fingerprints.append(Delete(NO_CONTEXT, file_id, SOMEBODY, condition).fingerprint())
            for content_type in (None, "text/plain"):
                replace = Replace(NO_CONTEXT, file_id, SOMEBODY, condition, body, content_type)
                fingerprints.append(replace.fingerprint())
            changes = (AskedChanges(), AskedChanges(tags=[]), AskedChanges(metadata={}))
            fingerprints += [of_patch(each, file_id, revisions) for each in changes]
    assert len(set(fingerprints)) == len(fingerprints)
