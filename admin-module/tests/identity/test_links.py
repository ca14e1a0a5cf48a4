"""The link key and the signing of links, as query asks for it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from artstore.auth.keys import parse_link_keys
from artstore.auth.links import Link, _parse
from artstore.clock import parse_rfc3339, uuid7
from artstore.contracts.tokens import MAX_LINK_S

FILE = str(uuid7())


async def sign(admin: Any, by: str = "ingester", **given: Any) -> Any:
    """By an account with the permissions of query."""
    now_s = int(time.time())
    order = {
        "account": await admin.account_id("boss"),
        "token_issued_at_s": now_s,
        "file_id": FILE,
        "disposition": "attachment",
        "expires_at_ms": 1000 * (now_s + 60),
        **given,
    }
    return await admin.call("POST", "/api/auth/links", by=by, json=order)


async def published(admin: Any) -> dict[str, Any]:
    return parse_link_keys((await admin.client.get("/.well-known/jwks.json")).content)


async def is_valid(admin: Any, link: str) -> bool:
    """By the published document alone."""
    claims, signed, signature = _parse(link)
    document = (await admin.client.get("/.well-known/jwks.json")).json()
    key = (await published(admin)).get(claims.kid)
    if key is None or claims.kid in document["revoked"]["keys"]:
        return False
    key.verify(signature, b"artstore link 1\n" + signed)
    return bool(claims.issued_at_s > document["revoked"]["accounts"].get(claims.account, -1))


async def new_user(admin: Any) -> dict[str, Any]:
    user: dict[str, Any] = (await admin.call("POST", "/api/service-accounts", json={"role": "USER"})).json()
    return user


async def test_a_link_is_signed_with_the_published_key(admin: Any) -> None:
    answer = await sign(admin, disposition="inline")
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert await is_valid(admin, answer.json()["link"])
    claims = _parse(answer.json()["link"])[0]
    assert claims == Link(
        kid=claims.kid,
        account=await admin.account_id("boss"),
        file_id=FILE,
        disposition="inline",
        issued_at_s=claims.issued_at_s,
        expires_at_ms=answer.json()["expires_at_ms"],
    )
    assert abs(claims.issued_at_s - time.time()) < 60


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"file_id": "../x"}, 422),
        ({"account": "boss"}, 422),
        ({"account": str(uuid7())}, 403),
        ({"disposition": "other"}, 422),
        ({"expires_at_ms": 10**15}, 422),
        ({"expires_at_ms": int(1000 * (time.time() + MAX_LINK_S + 3600))}, 422),
        ({"more": 1}, 422),
    ],
)
async def test_an_order_that_is_not_right_is_refused(admin: Any, given: dict[str, Any], status: int) -> None:
    assert (await sign(admin, **given)).status_code == status


async def test_only_who_reads_elements_has_links_signed(admin: Any) -> None:
    assert [(await sign(admin, by=name)).status_code for name in ("reader", "watcher", "se-01")] == [403, 403, 403]


async def test_suspension_voids_the_links_of_an_account_and_deletion_too(admin: Any) -> None:
    users = [await new_user(admin) for _ in range(3)]
    links = [(await sign(admin, account=user["id"])).json()["link"] for user in users]
    path = f"/api/service-accounts/{users[0]['id']}"
    assert (await admin.call("PATCH", path, json={"suspended": True})).status_code == 200
    assert (await sign(admin, account=users[0]["id"])).status_code == 403
    assert (await admin.call("DELETE", f"/api/service-accounts/{users[1]['id']}")).status_code == 204
    assert [await is_valid(admin, link) for link in links] == [False, False, True]
    assert (await admin.call("PATCH", path, json={"suspended": False})).status_code == 200
    assert not await is_valid(admin, links[0]), "what was void stays void"
    old = {"account": users[0]["id"], "token_issued_at_s": int(time.time()) - 5}
    assert (await sign(admin, **old)).status_code == 403, "asked for with a token that was revoked"
    new = await sign(admin, account=users[0]["id"], token_issued_at_s=int(time.time()) + 5)
    assert await is_valid(admin, new.json()["link"])


async def test_a_revocation_is_kept_as_long_as_a_link_may_live(admin: Any) -> None:
    user = await new_user(admin)
    await admin.call("DELETE", f"/api/service-accounts/{user['id']}")
    (row,) = await admin.sql(
        "SELECT extract(epoch FROM forget_at - now()) AS left_s FROM revocations WHERE name = $1", user["id"]
    )
    assert row["left_s"] > MAX_LINK_S


async def test_a_link_ends_with_its_account(admin: Any) -> None:
    wanted = {"role": "USER", "expires_at": "2099-01-01T00:00:00Z"}
    user = (await admin.call("POST", "/api/service-accounts", json=wanted)).json()
    later = "2099-01-01T00:00:00Z"
    assert parse_rfc3339(later).year == 2099
    soon = int(time.time()) + 30
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(soon))
    await admin.call("PATCH", f"/api/service-accounts/{user['id']}", json={"expires_at": moment})
    made = await sign(admin, account=user["id"], token_issued_at_s=int(time.time()) + 5)
    assert made.json()["expires_at_ms"] == 1000 * soon


async def test_a_rotation_of_the_link_key_voids_every_link_and_no_token(own_admin: Any) -> None:
    admin = await own_admin()
    link, (kid,) = (await sign(admin)).json()["link"], await published(admin)
    tokens = {key["kid"] for key in (await admin.call("GET", "/api/auth/keys")).json()["items"]}
    rotated = await admin.call("POST", "/api/auth/keys/rotate", params={"kind": "tokens"})
    assert rotated.json()["link_key"]["kid"] == kid
    assert await is_valid(admin, link), "the keys of tokens rotate every day"
    rotated = await admin.call("POST", "/api/auth/keys/rotate", params={"kind": "links"})
    assert {key["kid"] for key in rotated.json()["items"]} > tokens
    assert not await is_valid(admin, link)
    (second,) = await published(admin)
    assert rotated.json()["link_key"]["kid"] == second != kid
    assert await is_valid(admin, (await sign(admin)).json()["link"])
    await admin.call("POST", "/api/auth/keys/rotate")
    (third,) = await published(admin)
    assert third != second
    await admin.call("POST", f"/api/auth/keys/{third}/revoke")
    assert third not in await published(admin)
    found = await admin.call("GET", "/api/audit", params={"action": "key:rotate", "resource": second})
    (event,) = found.json()["items"]
    assert event["metadata"] == {"kind": "links", "active": second, "removed": [kid]}
    assert (await admin.call("POST", "/api/auth/keys/rotate", params={"kind": "x"})).status_code == 422


async def test_the_link_key_survives_a_restart(own_admin: Any) -> None:
    first = await own_admin()
    link = (await sign(first)).json()["link"]
    second = await own_admin()
    assert await is_valid(second, link)
