from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx
import jwt

from artstore.auth.keys import parse_jwks, verify_jwks
from artstore.contracts.tokens import JWKS_KEY

ADMIN_LOGIN = {"client_id": "boss", "client_secret": "b" * 43}


async def test_a_token_carries_the_claims_of_the_design(admin: Any) -> None:
    answer = await admin.client.post("/api/auth/token", json=ADMIN_LOGIN)
    body = answer.json()
    assert (answer.status_code, body["token_type"], body["expires_in"]) == (200, "Bearer", 1800)
    assert answer.headers["cache-control"] == "no-store"
    header = jwt.get_unverified_header(body["access_token"])
    keys = parse_jwks((await admin.client.get("/.well-known/jwks.json")).content)
    assert header == {"alg": "RS256", "typ": "at+jwt", "kid": header["kid"]}
    claims = jwt.decode(body["access_token"], keys[header["kid"]], algorithms=["RS256"], audience="query")
    assert claims["iss"] == "artstore-admin"
    assert claims["aud"] == ["storage", "ingester", "query", "admin"]
    assert (claims["client_id"], claims["role"]) == ("boss", "ADMIN")
    assert claims["exp"] - claims["iat"] == 1800
    assert "storage:write" not in claims["permissions"]


async def test_every_refusal_of_credentials_looks_the_same(admin: Any) -> None:
    given = [("boss", "wrong"), ("nobody", "b" * 43), ("bo\x00ss", "b" * 43), ("boss", "x" * 300), ("", "")]
    answers = [
        await admin.client.post("/api/auth/token", json={"client_id": client_id, "client_secret": secret})
        for client_id, secret in given
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({(answer.json()["code"], answer.json()["detail"]) for answer in answers}) == 1


async def test_refused_logins_are_audited_without_the_secret(admin: Any, eventually: Any) -> None:
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.77")  # an address without a denial in this minute
    async with httpx.AsyncClient(base_url=admin.url, transport=transport) as stranger:
        await stranger.post("/api/auth/token", json={"client_id": "mallory", "client_secret": "guess-guess"})

    async def recorded() -> Any:
        return (await admin.call("GET", "/api/audit", params={"resource": "mallory"})).json()["items"]

    events = await eventually(recorded)
    assert [(event["action"], event["user_id"], event["result"]) for event in events] == [("auth:token", "-", "denied")]
    assert "guess-guess" not in str(events)


async def test_the_form_of_rfc_6749_gets_errors_of_rfc_6749(admin: Any) -> None:
    form = {"grant_type": "client_credentials"}
    good = await admin.client.post("/api/auth/token", data=form, auth=("boss", "b" * 43))
    bad = await admin.client.post("/api/auth/token", data=form, auth=("boss", "wrong"))
    assert good.status_code == 200
    assert (bad.status_code, bad.json()["error"]) == (401, "invalid_client")
    assert bad.headers["www-authenticate"].startswith("Basic")
    assert bad.headers["cache-control"] == "no-store"


async def test_two_authorization_headers_are_refused(admin: Any) -> None:
    right = f"Basic {base64.b64encode(b'boss:' + b'b' * 43).decode()}"
    headers = [("authorization", right), ("authorization", right)]
    answer = await admin.client.post("/api/auth/token", data={"grant_type": "client_credentials"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_tokens_of_the_old_key_stay_valid_after_a_rotation(admin: Any) -> None:
    old = await admin.token("boss")
    rotated = await admin.call("POST", "/api/auth/keys/rotate")
    assert [key["state"] for key in rotated.json()["items"]].count("active") == 1
    fresh = (await admin.client.post("/api/auth/token", json=ADMIN_LOGIN)).json()["access_token"]
    assert jwt.get_unverified_header(fresh)["kid"] != jwt.get_unverified_header(old)["kid"]
    for token in (old, fresh):
        answer = await admin.client.get("/api/auth/keys", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200


async def test_redis_holds_the_keys_that_admin_publishes(admin: Any) -> None:
    published = parse_jwks((await admin.client.get("/.well-known/jwks.json")).content)
    kept = parse_jwks(verify_jwks((await admin.redis.get(JWKS_KEY)).encode(), published))
    assert kept.keys() == published.keys()


async def test_two_admins_that_rotate_at_once_leave_one_active_key(admin: Any, second_admin: Any) -> None:
    """The other admin has a schedule of a second: both rotate on their own, and by hand, at the same time."""
    other = await second_admin(SIGNING_KEY_ROTATE_EVERY_S="1")
    headers = {"authorization": f"Bearer {await admin.token('boss')}"}
    for _ in range(5):
        answers = await asyncio.gather(
            other.post("/api/auth/keys/rotate", headers=headers),
            admin.call("POST", "/api/auth/keys/rotate"),
            other.get("/api/auth/keys", headers=headers),
        )
        assert {answer.status_code for answer in answers} == {200}
        states = [row["state"] for row in await admin.sql("SELECT state FROM signing_keys")]
        assert (states.count("active"), states.count("next")) == (1, 1)
    await other.aclose()


async def test_private_keys_are_stored_encrypted(admin: Any) -> None:
    sealed = [row["private_sealed"] for row in await admin.sql("SELECT private_sealed FROM signing_keys")]
    assert sealed
    assert all(not text.startswith(b"\x30\x82") and b"rsaEncryption" not in text for text in sealed)
