"""Uploads: small, large and empty, raw and as forms, with a key and without."""

from __future__ import annotations

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
