from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

BASE = "/api/service-accounts"


async def make(admin: Any, **given: Any) -> dict[str, Any]:
    answer = await admin.call("POST", BASE, json=given)
    assert answer.status_code == 201, answer.text
    account: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"{BASE}/{account['id']}"
    return account


async def login(admin: Any, account: dict[str, Any], secret: str | None = None) -> int:
    credentials = {"client_id": account["client_id"], "client_secret": secret or account["client_secret"]}
    status: int = (await admin.client.post("/api/auth/token", json=credentials)).status_code
    return status


async def test_a_new_account_logs_in_with_the_secret_shown_once(admin: Any) -> None:
    account = await make(admin, role="USER", description="scanner")
    assert len(account["client_secret"]) == 43
    assert await login(admin, account) == 200
    shown = (await admin.call("GET", f"{BASE}/{account['id']}")).json()
    assert "client_secret" not in shown
    assert shown["permissions"] == ["files:delete", "files:read", "files:write"]


async def test_a_client_id_is_unique(admin: Any) -> None:
    await make(admin, client_id="twice")
    answer = await admin.call("POST", BASE, json={"client_id": "twice"})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_both_secrets_are_valid_through_the_grace_and_the_old_one_not_after(admin: Any) -> None:
    account = await make(admin)
    rotated = (await admin.call("POST", f"{BASE}/{account['id']}/rotate-secret")).json()
    assert [await login(admin, account), await login(admin, account, rotated["client_secret"])] == [200, 200]
    last = (await admin.call("POST", f"{BASE}/{account['id']}/rotate-secret", json={"grace_s": 0})).json()
    assert await login(admin, account, rotated["client_secret"]) == 401
    assert await login(admin, account, last["client_secret"]) == 200


async def test_the_old_secret_ends_with_its_grace(admin: Any, eventually: Any) -> None:
    account = await make(admin)
    rotated = await admin.call("POST", f"{BASE}/{account['id']}/rotate-secret", json={"grace_s": 2})
    assert rotated.json()["previous_secret_valid_until"] is not None
    assert rotated.headers["cache-control"] == "no-store"
    assert await login(admin, account) == 200

    async def ended() -> bool:
        return await login(admin, account) == 401

    await eventually(ended)
    assert await login(admin, account, rotated.json()["client_secret"]) == 200


async def test_an_account_has_a_name_a_description_or_both(admin: Any) -> None:
    for given in (
        {"name": "Scanner"},
        {"description": "in the hall"},
        {"name": "Scanner", "description": "in the hall"},
    ):
        account = await make(admin, **given)
        assert {field: account[field] for field in given} == given
        assert account["client_id"] != account["id"]
    renamed = await admin.call("PATCH", f"{BASE}/{account['id']}", json={"name": "Printer"})
    assert (renamed.json()["name"], renamed.json()["description"]) == ("Printer", "in the hall")


async def test_a_token_ends_with_its_account(admin: Any) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=100)
    account = await make(admin, expires_at=soon.isoformat())
    credentials = {"client_id": account["client_id"], "client_secret": account["client_secret"]}
    answer = (await admin.client.post("/api/auth/token", json=credentials)).json()
    assert 90 <= answer["expires_in"] <= 100


async def test_tokens_issued_after_a_suspension_is_lifted_are_valid(admin: Any) -> None:
    """Even in the same second: the revoked ones were issued until then, the new ones after it."""
    account = await make(admin, role="READONLY")
    credentials = {"client_id": account["client_id"], "client_secret": account["client_secret"]}
    for _ in range(3):
        answer = await admin.client.post("/api/auth/token", json=credentials)
        headers = {"authorization": f"Bearer {answer.json()['access_token']}"}
        assert (await admin.client.get("/api/sagas", headers=headers)).status_code == 200
        await admin.call("PATCH", f"{BASE}/{account['id']}", json={"suspended": True})
        assert (await admin.client.get("/api/sagas", headers=headers)).status_code == 401
        await admin.call("PATCH", f"{BASE}/{account['id']}", json={"suspended": False})


async def test_a_rotation_without_grace_takes_back_the_tokens_of_the_old_secret(admin: Any) -> None:
    account = await make(admin, role="READONLY")
    credentials = {"client_id": account["client_id"], "client_secret": account["client_secret"]}

    async def sagas(token: str) -> int:
        return int((await admin.client.get("/api/sagas", headers={"authorization": f"Bearer {token}"})).status_code)

    for grace_s, status in ((60, 200), (0, 401)):
        token = (await admin.client.post("/api/auth/token", json=credentials)).json()["access_token"]
        path = f"{BASE}/{account['id']}/rotate-secret"
        rotated = (await admin.call("POST", path, json={"grace_s": grace_s})).json()
        assert await sagas(token) == status
        credentials["client_secret"] = rotated["client_secret"]
    token = (await admin.client.post("/api/auth/token", json=credentials)).json()["access_token"]
    assert await sagas(token) == 200


async def test_a_first_account_that_was_deleted_does_not_come_back_with_the_next_start(
    admin: Any, second_admin: Any
) -> None:
    accounts = (await admin.call("GET", BASE, params={"limit": 1000})).json()["items"]
    (first,) = [one for one in accounts if one["client_id"] == "leaver"]
    credentials = {"client_id": "leaver", "client_secret": "l" * 43}
    assert (await admin.client.post("/api/auth/token", json=credentials)).status_code == 200
    assert (await admin.call("DELETE", f"{BASE}/{first['id']}")).status_code == 204
    other = await second_admin()  # ready, so its first accounts are made
    assert (await other.post("/api/auth/token", json=credentials)).status_code == 401
    await other.aclose()
    wanted = {"client_id": "leaver", "role": "READONLY"}
    assert (await admin.call("POST", BASE, json=wanted)).status_code == 201  # an operator may make it anew


async def test_a_suspended_expired_or_deleted_account_gets_no_token(admin: Any) -> None:
    account = await make(admin)
    path = f"{BASE}/{account['id']}"
    await admin.call("PATCH", path, json={"suspended": True})
    assert await login(admin, account) == 401
    await admin.call("PATCH", path, json={"suspended": False, "expires_at": "2020-01-01T00:00:00Z"})
    assert await login(admin, account) == 401
    await admin.call("PATCH", path, json={"expires_at": None})
    assert await login(admin, account) == 200
    assert (await admin.call("DELETE", path)).status_code == 204
    assert await login(admin, account) == 401
    assert (await admin.call("GET", path)).status_code == 404


async def test_only_service_accounts_have_permissions_of_their_own(admin: Any) -> None:
    service = await make(admin, role="SERVICE", permissions=["storage:read"])
    assert service["permissions"] == ["storage:read"]
    for wrong in (
        {"role": "USER", "permissions": ["files:read"]},
        {"role": "SERVICE", "permissions": ["accounts:write"]},
        {"role": "ROOT"},
        {"role": "USER", "surprise": 1},
        {"client_id": "with space"},
        {"client_id": ""},
        {"rate_per_minute": 0},
        {"description": "a\x00b"},
    ):
        answer = await admin.call("POST", BASE, json=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_fields"), wrong


async def test_a_change_is_audited_with_old_and_new_values(admin: Any) -> None:
    account = await make(admin, role="USER")
    await admin.call("PATCH", f"{BASE}/{account['id']}", json={"role": "READONLY"})
    (event,) = (await admin.call("GET", "/api/audit", by="watcher", params={"limit": 1})).json()["items"]
    assert (event["action"], event["resource"]) == ("account:update", account["id"])
    assert event["metadata"]["changed"]["role"] == ["USER", "READONLY"]


async def test_the_last_admin_cannot_be_removed(admin: Any) -> None:
    accounts = (await admin.call("GET", BASE, params={"limit": 1000})).json()["items"]
    (boss,) = [one for one in accounts if one["client_id"] == "boss"]
    path = f"{BASE}/{boss['id']}"
    for answer in (
        await admin.call("DELETE", path),
        await admin.call("PATCH", path, json={"suspended": True}),
        await admin.call("PATCH", path, json={"role": "USER"}),
    ):
        assert answer.status_code == 409
    assert (await admin.call("GET", path)).json()["role"] == "ADMIN"


async def test_pages_show_each_account_once(admin: Any) -> None:
    seen: list[str] = []
    cursor: str | None = None
    while cursor or not seen:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        answer = (await admin.call("GET", BASE, params=params)).json()
        seen += [one["client_id"] for one in answer["items"]]
        cursor = answer["next_cursor"]
    assert len(seen) == len(set(seen)) >= 6
    assert (await admin.call("GET", BASE, params={"cursor": "x"})).status_code == 422


async def test_writing_accounts_needs_the_permission(admin: Any) -> None:
    for caller, status in (("reader", 200), ("watcher", 403), ("ingester", 403)):
        assert (await admin.call("GET", BASE, by=caller)).status_code == status
        assert (await admin.call("POST", BASE, by=caller, json={})).status_code == 403
