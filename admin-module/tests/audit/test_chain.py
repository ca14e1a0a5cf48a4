from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

import asyncpg
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from artstore.audit.event import GENESIS


async def all_events(admin: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        params = {"chain": "admin", "limit": 50, **({"cursor": cursor} if cursor else {})}
        answer = (await admin.call("GET", "/api/audit", by="watcher", params=params)).json()
        events += answer["items"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return events[::-1]


async def test_the_chain_holds_and_every_signature_is_right(admin: Any) -> None:
    for number in range(3):
        await admin.call("POST", "/api/service-accounts", json={"client_id": f"chained-{number}"})
    (key,) = await admin.sql("SELECT public_key FROM audit_keys WHERE chain = 'admin'")
    public_key = Ed25519PublicKey.from_public_bytes(key["public_key"])
    prev, seq = GENESIS, 0
    for event in await all_events(admin):
        signed = {name: value for name, value in event.items() if name != "signature"}
        public_key.verify(base64.b64decode(event["signature"]), rfc8785.dumps(signed))
        assert (event["prev"], event["seq"]) == (prev, seq + 1)
        prev, seq = hashlib.sha256(rfc8785.dumps(event)).hexdigest(), event["seq"]
    assert seq > 3


async def test_concurrent_changes_by_two_admins_make_one_chain(admin: Any, second_admin: Any) -> None:
    other = await second_admin()
    headers = {"authorization": f"Bearer {await admin.token('boss')}"}
    await asyncio.gather(
        *(
            client.post("/api/service-accounts", json={"client_id": f"at-once-{number}-{who}"}, headers=headers)
            for number in range(10)
            for who, client in enumerate((admin.client, other))
        )
    )
    events = await all_events(admin)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    await other.aclose()


@pytest.mark.parametrize(
    "attack",
    ["UPDATE audit_events SET user_id = 'nobody'", "DELETE FROM audit_events", "TRUNCATE audit_events"],
)
async def test_the_table_takes_inserts_only(admin: Any, attack: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="inserts only"):
        await admin.sql(attack)


async def test_only_auditors_and_admins_read_the_log(admin: Any) -> None:
    statuses = {by: (await admin.call("GET", "/api/audit", by=by)).status_code for by in ("watcher", "boss", "reader")}
    assert statuses == {"watcher": 200, "boss": 200, "reader": 403}
