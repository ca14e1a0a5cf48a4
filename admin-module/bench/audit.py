#!/usr/bin/env python3
"""How long checking the audit log takes: `PYTHONPATH=.:../shared python bench/audit.py [events]`, in the module's folder.

A running admin, its chain filled with so many events past it, then asked over HTTP: all of it, and what came after the last
checkpoint of that check.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tokens import CLIENT, cpu_s, running_admin

from app.identity.secrets import KeyCipher
from artstore.audit.check import ADMIN_CHAIN
from artstore.audit.event import ChainHead, Event, Signed, hash_of, sign_event

COLUMNS = (
    *("chain", "seq", "prev", "timestamp", "service", "action", "user_id", "resource", "result", "metadata"),
    *("signature", "hash"),
)
CHECKPOINT_EVERY_S = 5
METADATA = {"changed": {"role": ["USER", "READONLY"]}, "address": "192.0.2.1"}
"""The metadata of one event, as a change of an account writes it."""
TEXT = orjson.dumps(METADATA).decode()


def made(key: Ed25519PrivateKey, head: ChainHead, count: int) -> Iterator[tuple[Any, ...]]:
    moment = datetime.now(UTC)
    for number in range(count):
        event = Event("account:update", "bench", str(number), metadata=METADATA)
        signed: Signed = sign_event(event, service="admin", chain=ADMIN_CHAIN, after=head, moment=moment, key=key)
        head = ChainHead(signed["seq"], hash_of(signed))
        values = {**signed, "timestamp": moment, "hash": head.hash, "metadata": TEXT}
        yield tuple(values[name] for name in COLUMNS)


async def fill(database_url: str, sealing_key: str, count: int) -> None:
    """In one transaction that holds the chain, so that admin's own events follow."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    async with connection.transaction():
        await connection.execute("LOCK TABLE audit_events IN EXCLUSIVE MODE")
        sealed = await connection.fetchval("SELECT private_sealed FROM audit_keys WHERE chain = $1", ADMIN_CHAIN)
        opened = KeyCipher(base64.b64decode(sealing_key)).decrypt(f"audit:{ADMIN_CHAIN}", sealed)
        row = await connection.fetchrow(
            "SELECT seq, hash FROM audit_events WHERE chain = $1 ORDER BY seq DESC", ADMIN_CHAIN
        )
        key, head = Ed25519PrivateKey.from_private_bytes(opened), ChainHead(row["seq"], row["hash"])
        await connection.copy_records_to_table("audit_events", records=made(key, head, count), columns=COLUMNS)
    await connection.close()


async def measure(url: str, database_url: str, sealing_key: str, pid: int, count: int) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3600)) as session:
        async with session.post(f"{url}/api/auth/token", json=CLIENT) as answer:
            headers = {"authorization": f"Bearer {(await answer.json())['access_token']}"}
        began_s = time.monotonic()
        await fill(database_url, sealing_key, count)
        sys.stdout.write(f"{count} events made in {time.monotonic() - began_s:.0f} s\n")
        await asyncio.sleep(2 * CHECKPOINT_EVERY_S)
        number: int | None = None
        for _ in range(2):
            params = {} if number is None else {"from_checkpoint": str(number)}
            began_s, used_s = time.monotonic(), cpu_s(pid)
            async with session.get(f"{url}/api/audit/verify", params=params, headers=headers) as answer:
                verdict = await answer.json()
            took_s, used_s = time.monotonic() - began_s, cpu_s(pid) - used_s
            what = "all" if number is None else f"from checkpoint {number} on"
            sys.stdout.write(
                f"{what}: {verdict['events']} events, ok {verdict['ok']}: {took_s:.2f} s, {used_s:.2f} s of CPU\n"
            )
            number = verdict["last_checkpoint"]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with running_admin(AUDIT_CHECKPOINT_EVERY_S=str(CHECKPOINT_EVERY_S), DATABASE_COMMAND_TIMEOUT_S="60") as (
        url,
        given,
        pid,
    ):
        asyncio.run(measure(url, given["DATABASE_URL"], given["KEY_ENCRYPTION_KEY"], pid, count))


if __name__ == "__main__":
    main()
