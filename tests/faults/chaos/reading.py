"""Reads and searches: what is read must be what the file may be; an older state only with an excuse."""

from __future__ import annotations

from .asking import RETRIED, Answer
from .client import Client, state_of
from .history import History, State


async def read_attributes(client: Client) -> None:
    history = client.pick()
    if history is None:
        return
    answer = await client.caller.ask("read", "GET", "query", f"/api/files/{history.file_id}")
    if answer.status == 200:
        record = client.record(answer)
        if record is not None:
            _read(client, history, answer, state_of(record))
    elif answer.status == 404:
        _read(client, history, answer, None)
    elif answer.status not in RETRIED:
        client.found(answer, f"{history.file_id} may be {history.possible}")


async def read_content(client: Client) -> None:
    history = client.pick()
    if history is None:
        return
    answer = await client.caller.ask("read", "GET", "query", f"/api/files/{history.file_id}/content")
    if answer.status == 404:
        _read(client, history, answer, None)
    elif answer.status == 200:
        _read_bytes(client, history, answer)
    elif answer.status not in RETRIED:
        client.found(answer, f"{history.file_id} may be {history.possible}")


def _read_bytes(client: Client, history: History, answer: Answer) -> None:
    tag = answer.headers.get("etag", "").strip('"')
    if tag != f"sha256:{answer.sha256}":
        client.found(answer, f"the bytes are sha256:{answer.sha256}, the ETag {tag}")
    fitting = [state for state in history.seen if state is not None and state.sha256 == answer.sha256]
    if not fitting:
        client.found(answer, f"{history.file_id} never had the bytes {answer.sha256}")
    elif not any(state in history.possible for state in fitting):
        client.stale(history, answer, max(fitting, key=lambda state: state.revision))


async def search(client: Client) -> None:
    """Its own files, or one of its labels. A list comes from the catalog, which may be behind: but not invented."""
    params = {"limit": "20", "owner": client.caller.account["client_id"]}
    if client.chance.random() < 0.5 and client.labels:
        params = {"metadata.label": f"{client.name}-{client.chance.randint(1, client.labels)}"}
    answer = await client.caller.ask("read", "GET", "query", "/api/files", params=params)
    if answer.status == 200:
        for record in answer.json["items"]:
            history = client.files.get(record["file_id"])
            if history is not None and state_of(record) not in history.seen:
                client.found(answer, f"a list has {record}, which was one of {history.seen}")
    elif answer.status not in RETRIED:
        client.found(answer, "a list was answered so")


def _read(client: Client, history: History, answer: Answer, state: State | None) -> None:
    if state in history.possible:
        return
    if state not in history.seen:
        client.found(answer, f"read {state}: {history.file_id} never was more than {history.seen}")
    else:
        client.stale(history, answer, state)
