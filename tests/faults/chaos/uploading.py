"""Uploads: small, large and empty, raw, as forms and in batches, with a key and without."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from .asking import RETRIED, Answer
from .client import Client, Untold, is_running, state_of
from .history import History, State

SMALL_BYTES, MIDDLE_BYTES, LARGE_BYTES = 2_000, 70_000, 3 << 20
TYPE = "application/octet-stream"


async def upload(client: Client) -> None:
    label, chance = client.new_label(), client.chance
    size = chance.choices((0, SMALL_BYTES, MIDDLE_BYTES, LARGE_BYTES), (1, 20, 5, 2))[0]
    content = chance.randbytes(chance.randint(size // 2, size))
    temporary = chance.random() < 0.7
    fields = {"filename": f"{label}.bin", "metadata": json.dumps({"label": label}), "tags": '["chaos"]'}
    fields |= {"retention": "temporary", "ttl_days": "2"} if temporary else {"retention": "permanent"}
    key = f"upload-{label}" if chance.random() < 0.7 else None
    answer = await _send(client, fields, content, key, as_form=chance.random() < 0.3)
    sha256 = hashlib.sha256(content).hexdigest()
    if answer.status == 201:
        _acknowledged(client, answer, State(1, sha256, label), changeable=temporary)
        return
    client.untold.append(Untold(label, sha256))
    if answer.status not in RETRIED and not is_running(answer):
        client.found(answer, "an upload was answered so")


async def upload_batch(client: Client) -> None:
    chance = client.chance
    files = {client.new_label(): chance.randbytes(chance.randint(0, SMALL_BYTES)) for _ in range(chance.randint(2, 9))}

    def form() -> Mapping[str, Any]:
        made = aiohttp.FormData()
        for label, content in files.items():
            fields = {"metadata": {"label": label}, "tags": ["chaos"], "retention": "temporary", "ttl_days": 2}
            made.add_field("attributes", json.dumps(fields), content_type="application/json")
            made.add_field("file", content, filename=f"{label}.bin", content_type=TYPE)
        return {"data": made}

    key = f"batch-{next(iter(files))}" if chance.random() < 0.7 else None
    answer = await client.ask("upload", "POST", "/api/files/batch", key=key, headers={}, body=form)
    results = answer.json["results"] if answer.status == 200 else [{"status": answer.status} for _ in files]
    for (label, content), result in zip(files.items(), results, strict=True):
        sha256 = hashlib.sha256(content).hexdigest()
        if result["status"] == 201:
            one = dataclasses.replace(answer, body=json.dumps(result["file"]).encode())
            _acknowledged(client, one, State(1, sha256, label), changeable=True)
            continue
        client.untold.append(Untold(label, sha256))
        if result["status"] not in RETRIED and not is_running(answer):
            client.found(answer, "a file of a batch was answered so")


async def _send(client: Client, fields: dict[str, str], content: bytes, key: str | None, *, as_form: bool) -> Answer:
    def form() -> Mapping[str, Any]:
        made = aiohttp.FormData()
        for name, value in fields.items():
            if name != "filename":
                made.add_field(name, value)
        made.add_field("file", content, filename=fields["filename"], content_type=TYPE)
        return {"data": made}

    def raw() -> Mapping[str, Any]:
        return {"params": fields, "data": content}

    headers = {} if as_form else {"content-type": TYPE}
    return await client.ask(
        "upload", "POST", "/api/files/upload", key=key, headers=headers, body=form if as_form else raw
    )


def _acknowledged(client: Client, answer: Answer, state: State, *, changeable: bool) -> None:
    record = client.record(answer)
    if record is None:
        return
    client.files[record["file_id"]] = History(record["file_id"], {state}, client.now_s, changeable=changeable)
    if state_of(record) != state:
        client.found(answer, f"acknowledged as {state_of(record)}, not {state}")
