from __future__ import annotations

import base64

import pytest

from app.identity.credentials import FORM, JSON, Credentials, OAuthError, parse_credentials
from artstore.errors import ArtStoreError, InvalidFields, Malformed, UnsupportedMediaType


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_the_three_request_forms_give_the_same_credentials() -> None:
    json = parse_credentials(JSON, None, b'{"client_id": "me", "client_secret": "s+1"}')
    form = parse_credentials(FORM, None, b"grant_type=client_credentials&client_id=me&client_secret=s%2B1")
    header = parse_credentials(f"{FORM}; charset=utf-8", basic("me:s%2B1"), b"grant_type=client_credentials")
    assert json == Credentials("me", "s+1")
    assert form == Credentials("me", "s+1")
    assert header == Credentials("me", "s+1", basic=True)


@pytest.mark.parametrize("sent", ["dms:scan:s", "dms%3Ascan:s", "a:b:c:s"])
def test_a_client_id_with_colons_logs_in_with_basic_encoded_or_not(sent: str) -> None:
    credentials = parse_credentials(FORM, basic(sent), b"grant_type=client_credentials")
    assert (credentials.client_id, credentials.client_secret) == (sent[:-2].replace("%3A", ":"), "s")


@pytest.mark.parametrize(
    ("authorization", "body", "error", "status"),
    [
        (None, b"", "invalid_request", 400),
        (None, b"client_id=me&client_secret=s", "invalid_request", 400),
        (None, b"grant_type=password&username=me", "unsupported_grant_type", 400),
        (None, b"grant_type=client_credentials&grant_type=client_credentials", "invalid_request", 400),
        (None, b"grant_type=client_credentials&client_id=me", "invalid_client", 401),
        (None, b"grant_type=client_credentials&client_id=%ff\xff", "invalid_request", 400),
        (basic("me:s"), b"grant_type=client_credentials&client_secret=s", "invalid_request", 400),
        (basic("me"), b"grant_type=client_credentials", "invalid_client", 401),
        ("Basic %%%", b"grant_type=client_credentials", "invalid_client", 401),
        ("Bearer abc", b"grant_type=client_credentials", "invalid_client", 401),
        (basic("me:s"), b"grant_type=client_credentials&client_id=you", "invalid_client", 401),
    ],
)
def test_a_bad_form_is_refused_in_the_words_of_rfc_6749(
    authorization: str | None, body: bytes, error: str, status: int
) -> None:
    with pytest.raises(OAuthError) as raised:
        parse_credentials(FORM, authorization, body)
    assert (raised.value.error, raised.value.status) == (error, status)


@pytest.mark.parametrize(
    ("content_type", "body", "error"),
    [
        (JSON, b"{", Malformed),
        (JSON, b"\xff", Malformed),
        (JSON, b"[]", InvalidFields),
        (JSON, b'{"client_id": "me"}', InvalidFields),
        (JSON, b'{"client_id": 1, "client_secret": "s"}', InvalidFields),
        ("text/plain", b"", UnsupportedMediaType),
        ("", b"", UnsupportedMediaType),
    ],
)
def test_other_bodies_are_refused_as_problems(content_type: str, body: bytes, error: type[ArtStoreError]) -> None:
    with pytest.raises(error):
        parse_credentials(content_type, None, body)


def test_a_client_may_send_its_old_token_beside_its_secret() -> None:
    assert parse_credentials(JSON, "Bearer old", b'{"client_id": "me", "client_secret": "s"}') == Credentials("me", "s")


def test_json_beside_basic_is_refused_as_the_form_is() -> None:
    with pytest.raises(Malformed, match="two ways"):
        parse_credentials(JSON, "Basic YTpi", b'{"client_id": "me", "client_secret": "s"}')
