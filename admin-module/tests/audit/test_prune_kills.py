"""Admin, on its own database login, is killed at each point of archive, seal and prune: the log stays whole, and the same
command goes on after the next start."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit.seals import PRUNE_BATCH
from app.database_roles import ADMIN, LOGINS
from artstore.audit.event import ChainHead, Event, Signed, fingerprint, head_after, sign_event
from artstore.clock import parse_rfc3339

EVENTS = PRUNE_BATCH + 500
"""The events of one chain, which are pruned in two batches."""
COLUMNS = ("chain", "seq", "prev", "timestamp", "service", "action", "user_id", "resource", "result", "metadata",
           "signature", "hash")  # fmt: skip
KILLS = [
    # point, command, seals afterwards, deleted events afterwards
    ("admin.audit_archived:kill", "archive", 0, 0),
    ("admin.audit_seal_written:kill", "archive", 0, 0),
    ("admin.audit_sealed:kill", "archive", 1, 0),
    ("admin.audit_prune_written:kill", "prune", 1, 0),
    ("admin.audit_pruned:kill", "prune", 1, PRUNE_BATCH),
    ("admin.audit_prune_written:kill", "prune", 1, PRUNE_BATCH),
]


def signed_chain(count: int) -> tuple[bytes, list[Signed]]:
    """(raw public key, events) of a writer other than admin."""
    key, head, events = Ed25519PrivateKey.generate(), ChainHead(), []
    raw = key.public_key().public_bytes_raw()
    for number in range(count):
        event = Event("file:delete", "boss", str(number))
        moment, chain = datetime.now(UTC), f"query:{fingerprint(raw)}"
        events.append(sign_event(event, service="query", chain=chain, after=head, moment=moment, key=key))
        head = head_after(events[-1])
    return raw, events


async def write_chain(database_url: str, count: int) -> None:
    raw, events = await asyncio.to_thread(signed_chain, count)
    hashes = [*(event["prev"] for event in events[1:]), head_after(events[-1]).hash]
    rows = [
        {
            **event,
            "timestamp": parse_rfc3339(event["timestamp"]),
            "metadata": json.dumps(event["metadata"]),
            "hash": hash_,
        }
        for event, hash_ in zip(events, hashes, strict=True)
    ]
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    chain = events[0]["chain"]
    await connection.execute("INSERT INTO audit_keys (chain, public_key) VALUES ($1, $2)", chain, raw)
    await connection.copy_records_to_table(
        "audit_events", records=[tuple(row[name] for name in COLUMNS) for row in rows], columns=COLUMNS
    )
    await connection.close()


async def deleted_and_recorded(admin: Any) -> tuple[int, int]:
    """The number of events missing from the chains, and the number recorded in `audit:prune` events."""
    [gone] = await admin.sql(
        """SELECT sum(missing)::bigint AS events FROM (
        SELECT max(seq) - count(*) AS missing FROM audit_events GROUP BY chain) AS chains"""
    )
    [told] = await admin.sql(
        """SELECT coalesce(sum((metadata ->> 'events')::bigint), 0)::bigint AS events
        FROM audit_events WHERE action = 'audit:prune'"""
    )
    return gone["events"], told["events"]


async def test_after_a_kill_at_any_point_the_log_verifies_and_the_command_continues(
    own_admin: Any, new_log: Any, tmp_path: Path, eventually: Any
) -> None:
    roles = tmp_path / "database-roles.json"
    roles.write_text(json.dumps({name: name[-1] * 43 for name in LOGINS}))
    roles.chmod(0o600)
    first = await own_admin(AUDIT_CHECKPOINT_EVERY_S="0.5", DATABASE_ROLES_FILE=str(roles))
    own_login = first.database_url.replace("//postgres@", f"//{ADMIN}@")
    login = {"DATABASE_OWNER_URL": first.database_url, "DATABASE_ROLES_FILE": str(roles), "DATABASE_URL": own_login}
    log = new_log(first)
    await write_chain(first.database_url, EVENTS)
    await log.grow(eventually)
    first.process.terminate()
    await asyncio.to_thread(first.process.wait, 30)
    for point, command, seals, deleted in KILLS:
        log.admin = await own_admin(ARTSTORE_POINT=point, **login)
        broken = await asyncio.to_thread(log.run, command, "a1.ndjson", *before(command))
        assert (broken.returncode, "Traceback" in broken.stderr) == (1, False), (point, broken.stderr)
        assert await asyncio.to_thread(log.admin.process.wait, 30) == -9, point
        rows = await log.admin.sql("SELECT number FROM audit_seals")
        gone, told = await deleted_and_recorded(log.admin)
        assert (len(rows), gone, told) == (seals, deleted, deleted), point
    log.admin = await own_admin(**login)
    assert (await log.verify())["findings"] == []
    done = await asyncio.to_thread(log.run, "prune", "a1.ndjson")
    assert done.returncode == 0, done.stderr
    gone, told = await deleted_and_recorded(log.admin)
    assert gone == told > EVENTS - 2
    assert (await log.verify())["findings"] == []
    await log.export("now.ndjson")
    checked = await asyncio.to_thread(log.run_offline, "a1.ndjson", "now.ndjson")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def before(command: str) -> tuple[str, ...]:
    return ("--before-days", "0") if command == "archive" else ()
