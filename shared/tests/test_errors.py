from __future__ import annotations

import orjson
import pytest

from artstore.errors import (
    BY_CODE,
    ArtStoreError,
    BadGateway,
    Forbidden,
    InvalidFields,
    MethodNotAllowed,
    ModeForbids,
    NotFound,
    RangeNotSatisfiable,
    RateLimited,
    StorageFull,
    TooManyUploads,
    Unauthenticated,
    Unavailable,
    fault_text,
    from_wire,
)

ALL = sorted(BY_CODE.values(), key=lambda cls: cls.code)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.code)
def test_every_error_comes_out_of_the_wire_as_it_went_in(cls: type[ArtStoreError]) -> None:
    sent = cls("what happened", retry_after_s=7, fields=["a"], away="se-01")
    received = from_wire(cls.status, sent.to_wire("request-1"))
    assert type(received) is cls
    assert (received.detail, received.retry_after_s, received.fields) == (sent.detail, 7, sent.fields)


def test_codes_are_unique_and_statuses_are_errors() -> None:
    assert len({cls.code for cls in ALL}) == len(ALL)
    assert all(400 <= cls.status < 600 for cls in ALL)


def test_the_problem_document_has_the_members_of_rfc_9457() -> None:
    problem = orjson.loads(NotFound("no such file", file_id="x").to_wire("request-1"))
    assert problem == {
        "type": "urn:artstore:error:not_found",
        "title": "Not found",
        "status": 404,
        "detail": "no such file",
        "code": "not_found",
        "request_id": "request-1",
        "file_id": "x",
    }


def test_a_field_cannot_pose_as_a_member_of_the_document() -> None:
    problem = orjson.loads(InvalidFields("bad", status=200, code="ok", field="a").to_wire())
    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_fields", "a")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b"<html>", NotFound),
        (404, b"", NotFound),
        (404, b"[]", NotFound),
        (404, b'"text"', NotFound),
        (404, b'{"code": "never heard of"}', NotFound),
        (507, b"{}", StorageFull),
        (503, b"{}", Unavailable),
        (418, b"I am a teapot", BadGateway),
        (599, b"\xff", BadGateway),
    ],
)
def test_an_answer_without_a_problem_document_is_classified_by_its_status(
    status: int, body: bytes, expected: type
) -> None:
    assert type(from_wire(status, body)) is expected


@pytest.mark.parametrize("field", ["self", "detail", "retry_after_s", "status"])
def test_no_member_of_a_foreign_document_breaks_the_reader(field: str) -> None:
    body = orjson.dumps({"code": "conflict", field: "5"})
    assert from_wire(409, body).code == "conflict"


@pytest.mark.parametrize(
    ("error", "header", "value"),
    [
        (Unavailable(), "retry-after", "5"),
        (BadGateway(), "retry-after", "5"),
        (RateLimited(retry_after_s=3), "retry-after", "3"),
        (TooManyUploads(), "retry-after", "5"),
        (Unauthenticated(), "www-authenticate", 'Bearer realm="artstore"'),
        (
            Forbidden(permission="files:write"),
            "www-authenticate",
            'Bearer realm="artstore", error="insufficient_scope", scope="files:write"',
        ),
        (MethodNotAllowed(allow="GET, HEAD"), "allow", "GET, HEAD"),
        (RangeNotSatisfiable(size_bytes=10), "content-range", "bytes */10"),
    ],
)
def test_an_error_brings_the_header_its_status_asks_for(error: NotFound, header: str, value: str) -> None:
    assert error.headers()[header] == value


def test_what_waiting_does_not_mend_names_no_time() -> None:
    assert "retry-after" not in ModeForbids().headers()


@pytest.mark.parametrize(
    ("kind", "said", "text"),
    [
        ("missing", "Field required", "port is missing"),
        ("extra_forbidden", "Extra inputs are not permitted", "port is unknown"),
        ("greater_than", "Input should be greater than 0", "port must be greater than 0"),
        ("value_error", "Value error, must be base64", "port must be base64"),
        ("value_error", "Value error, not a port", "port: not a port"),
    ],
)
def test_a_finding_of_pydantic_names_the_field_and_its_problem(kind: str, said: str, text: str) -> None:
    assert fault_text("port", {"type": kind, "msg": said}) == text


def test_a_finding_about_several_fields_names_them_itself() -> None:
    assert fault_text("", {"type": "value_error", "msg": "Value error, a needs b"}) == "a needs b"
