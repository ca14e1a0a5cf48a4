"""Requests under an Idempotency-Key: made once, answered alike, and their secrets are stored encrypted."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from artstore.clock import uuid7

BASE = "/api/service-accounts"


async def send(admin: Any, path: str, key: str, body: dict[str, Any], by: str = "boss") -> Any:
    return await admin.call("POST", path, by=by, json=body, headers={"idempotency-key": key})


async def logs_in(admin: Any, account: dict[str, Any]) -> bool:
    credentials = {name: account[name] for name in ("client_id", "client_secret")}
    return bool((await admin.client.post("/api/auth/token", json=credentials)).status_code == 200)


async def test_an_account_is_made_once_also_by_requests_at_the_same_time(admin: Any) -> None:
    key, body = str(uuid7()), {"role": "USER", "name": secrets.token_hex(8)}
    answers = await asyncio.gather(*(send(admin, BASE, key, body) for _ in range(5)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(201, answers[0].text)}
    assert [answer.headers.get("idempotent-replayed") for answer in answers].count(None) == 1
    assert {answer.headers["location"] for answer in answers} == {f"{BASE}/{answers[0].json()['id']}"}
    assert await logs_in(admin, answers[0].json())
    (row,) = await admin.sql("SELECT count(*) AS made FROM accounts WHERE name = $1", body["name"])
    assert row["made"] == 1
    other = await send(admin, BASE, key, {**body, "role": "READONLY"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_secret_is_rotated_once(admin: Any) -> None:
    account, key = (await send(admin, BASE, str(uuid7()), {})).json(), str(uuid7())
    path = f"{BASE}/{account['id']}/rotate-secret"
    first, second = [await send(admin, path, key, {}) for _ in range(2)]
    assert (second.text, second.headers["idempotent-replayed"]) == (first.text, "true")
    assert await logs_in(admin, account), "the former secret is still the previous one"
    assert await logs_in(admin, first.json())


async def test_no_secret_is_stored_in_clear(admin: Any) -> None:
    key = str(uuid7())
    made = (await send(admin, BASE, key, {})).json()
    (row,) = await admin.sql("SELECT headers::text, body FROM idempotency_keys WHERE key = $1", key)
    assert made["client_secret"].encode() not in row["body"]
    assert made["client_id"].encode() not in row["body"]
    assert made["client_secret"] not in row["headers"]


async def test_a_refusal_leaves_the_key_free(admin: Any) -> None:
    key, name = str(uuid7()), f"taken-{secrets.token_hex(4)}"
    await admin.call("POST", BASE, json={"client_id": name})
    assert (await send(admin, BASE, key, {"client_id": name})).status_code == 409
    assert (await send(admin, BASE, key, {"client_id": f"{name}-2"})).status_code == 201


async def test_a_key_is_refused_where_it_would_be_ignored(admin: Any) -> None:
    for path in ("/api/auth/keys/rotate", "/api/storage-elements/se-01/verify"):
        refused = await send(admin, path, "key", {})
        assert (refused.status_code, refused.json()["code"]) == (400, "unsupported_header"), path
    assert (await send(admin, BASE, "a b", {})).status_code == 422


async def test_a_link_is_signed_once(admin: Any) -> None:
    account, key = await admin.account_id("boss"), str(uuid7())

    async def sign(fingerprint: str, later_s: int) -> Any:
        now_s = int(time.time())
        order = {
            "account": account,
            "token_issued_at_s": now_s,
            "file_id": str(uuid7()),
            "disposition": "attachment",
            "expires_at_ms": 1000 * (now_s + later_s),
            "key": {"client_id": "boss", "key": key, "fingerprint": fingerprint},
        }
        return await admin.call("POST", "/api/auth/links", by="ingester", json=order)

    first, second, other = [await sign("a", 60), await sign("a", 90), await sign("b", 60)]
    assert first.status_code == 201
    assert second.json() == {**first.json(), "replayed": True}
    assert other.status_code == 422
    reused = await send(admin, BASE, key, {})
    assert reused.status_code == 422, "a key belongs to its account, whatever it was used for"
    (row,) = await admin.sql("SELECT body FROM idempotency_keys WHERE key = $1", key)
    assert first.json()["link"].encode() not in row["body"]
