"""Files that all clients change at once, each change under If-Match: no two may be acknowledged on one revision, none be lost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .asking import RETRIED, Answer
from .client import Client

FILES = 3


@dataclass(slots=True)
class Counter:
    """`metadata.count` goes up with every change, as the revision does: it is always one less."""

    file_id: str
    acknowledged: set[int] = field(default_factory=set)
    """Acknowledged revisions."""
    doubtful: int = 0
    """Changes whose outcome no client knows."""


async def make_counters(client: Client) -> list[Counter]:
    return [await _make(client, f"counter-{number}") for number in range(FILES)]


async def _make(client: Client, label: str) -> Counter:
    params = {"metadata": json.dumps({"label": label, "count": 0}), "retention": "temporary", "ttl_days": "2"}
    headers = {"content-type": "application/octet-stream"}
    body = {"params": params, "data": label.encode()}
    answer = await client.ask("upload", "POST", "/api/files/upload", key=label, headers=headers, body=lambda: body)
    assert answer.status == 201, answer.body
    return Counter(answer.json["file_id"])


async def count(client: Client, counters: list[Counter]) -> None:
    """Read, add one, write back on the revision that was read."""
    counter = client.chance.choice(counters)
    path = f"/api/files/{counter.file_id}"
    read = await client.caller.ask("read", "GET", "query", path)
    if read.status != 200:
        if read.status not in RETRIED:
            client.found(read, "a counter was answered so")
        return
    metadata, revision = read.json["metadata"], read.json["revision"]
    if metadata["count"] != revision - 1:
        client.found(read, f"{metadata['count']} counted at revision {revision}")
    changes = json.dumps({"metadata": {**metadata, "count": metadata["count"] + 1}})
    headers = {"content-type": "application/json", "if-match": f'"{revision}"'}
    answer = await client.ask("change", "PATCH", path, key=None, headers=headers, body=lambda: {"data": changes})
    _counted(client, counter, answer, revision)


def _counted(client: Client, counter: Counter, answer: Answer, revision: int) -> None:
    if answer.status == 200:
        if revision + 1 in counter.acknowledged:
            client.found(answer, f"two changes were acknowledged on revision {revision} of {counter.file_id}")
        counter.acknowledged.add(revision + 1)
    elif answer.status == 202 or answer.status in RETRIED - {401}:
        counter.doubtful += 1
    elif answer.status not in (401, 412):
        client.found(answer, f"a counter at revision {revision} was answered so")


def check_counters(counters: list[Counter], disk: dict[str, dict[str, Any]]) -> list[str]:
    """Every acknowledged change is in the file, and nothing else but what may be."""
    problems = []
    for counter in counters:
        record = disk.get(counter.file_id)
        revision = record["revision"] if record else 0
        told, most = len(counter.acknowledged), len(counter.acknowledged) + counter.doubtful
        if record is None or record["metadata"]["count"] != revision - 1 or not told <= revision - 1 <= most:
            problems.append(f"{record}: {told} changes were acknowledged and {counter.doubtful} in doubt")
    return problems
