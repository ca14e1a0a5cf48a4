"""The scope of a token request (RFC 6749 §3.3), and the metadata of the authorization server (RFC 8414)."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

LOGIN = {"client_id": "boss", "client_secret": "b" * 43}
FORM = {"grant_type": "client_credentials", **LOGIN}
TOKEN = "/api/auth/token"


async def ask(admin: Any, form: bool, **more: Any) -> Any:
    return await admin.client.post(TOKEN, **({"data": {**FORM, **more}} if form else {"json": {**LOGIN, **more}}))


def permissions(answer: Any) -> list[str]:
    claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    return list(claims["permissions"])


@pytest.mark.parametrize("form", [True, False])
async def test_a_scope_narrows_the_token_and_is_returned(admin: Any, form: bool) -> None:
    answer = await ask(admin, form, scope="keys:read accounts:read")
    assert (answer.status_code, answer.json()["scope"]) == (200, "accounts:read keys:read")
    assert permissions(answer) == ["accounts:read", "keys:read"]
    narrowed = {"authorization": f"Bearer {answer.json()['access_token']}"}
    assert (await admin.client.get("/api/auth/keys", headers=narrowed)).status_code == 200
    assert (await admin.client.get("/api/audit", headers=narrowed)).status_code == 403


@pytest.mark.parametrize("form", [True, False])
async def test_without_a_scope_the_token_has_all_permissions_and_the_answer_has_three_members(
    admin: Any, form: bool
) -> None:
    for more in ({}, {"scope": ""}):
        answer = await ask(admin, form, **more)
        assert set(answer.json()) == {"access_token", "token_type", "expires_in"}
        assert "audit:read" in permissions(answer)


async def test_a_narrowed_token_without_anything_of_admin_is_not_for_admin(admin: Any) -> None:
    answer = await ask(admin, True, scope="files:read")
    claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    assert claims["aud"] == ["storage", "ingester", "query"]


@pytest.mark.parametrize("scope", ["files:all", "storage:write", "keys:read  keys:write", " ", 'é"\\', "keys:read,x"])
@pytest.mark.parametrize("form", [True, False])
async def test_a_scope_that_the_account_lacks_is_refused(admin: Any, form: bool, scope: str) -> None:
    answer = await ask(admin, form, scope=scope)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
    assert answer.json()["error_description"].isascii()
    assert answer.headers["cache-control"] == "no-store"
    if not form:
        assert answer.json()["code"] == "invalid_scope"


async def test_a_wrong_secret_is_invalid_client_in_every_form(admin: Any) -> None:
    wrong = {"client_secret": "wrong", "scope": "files:all"}
    for form in (True, False):
        answer = await ask(admin, form, **wrong)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.json()["code"] == "unauthenticated"


async def test_the_metadata_lead_a_client_to_a_token(admin: Any) -> None:
    described = (await admin.client.get("/.well-known/oauth-authorization-server")).json()
    assert described["issuer"] == admin.url
    assert described["grant_types_supported"] == ["client_credentials"]
    assert {"files:read", "audit:read"} <= set(described["scopes_supported"])
    assert "storage:write" not in described["scopes_supported"]
    answer = await admin.client.post(described["token_endpoint"], data=FORM)
    assert answer.status_code == 200
    assert (await admin.client.get(described["jwks_uri"])).json()["keys"]


async def test_the_metadata_name_the_address_of_the_request_or_the_public_one(admin: Any, second_admin: Any) -> None:
    path = "/.well-known/oauth-authorization-server"
    asked = await admin.client.get(path, headers={"host": "files.example:8443"})
    assert asked.json()["issuer"] == "http://files.example:8443"
    assert (await admin.client.get(path, headers={"host": "a/b"})).status_code == 400
    behind_tls = {"host": "files.example", "x-forwarded-proto": "https"}
    assert (await admin.client.get(path, headers=behind_tls)).json()["issuer"] == "http://files.example"
    behind = await second_admin(TRUSTED_PROXIES="127.0.0.1")
    assert (await behind.get(path, headers=behind_tls)).json()["issuer"] == "https://files.example"
    public = await second_admin(PUBLIC_URL="https://files.example/")
    described = (await public.get(path)).json()
    assert (described["issuer"], described["token_endpoint"]) == (
        "https://files.example",
        "https://files.example/api/auth/token",
    )
