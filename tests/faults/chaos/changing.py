"""Updates and deletes, on a revision that the client believes in; and what became of those that were answered 202."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from .asking import RETRIED, Answer
from .client import Client, Queued, cannot_be_told, is_running, state_of
from .history import Effect, History, State, deleted, patched, replaced

KEYED = 0.5
"""Share of the changes that are sent under an Idempotency-Key, again and again until they are answered."""
SIZES = (100, 2_000, 70_000, 1 << 20)


async def patch(client: Client) -> None:
    label = client.new_label()
    body = json.dumps({"metadata": {"label": label}, "tags": ["chaos", label]})
    await _change(client, "PATCH", "", patched(label), content_type="application/json", data=body)


async def replace(client: Client) -> None:
    content = client.chance.randbytes(client.chance.choice(SIZES))
    effect = replaced(hashlib.sha256(content).hexdigest())
    await _change(client, "PUT", "/content", effect, content_type="application/octet-stream", data=content)


async def delete(client: Client) -> None:
    await _change(client, "DELETE", "", deleted, conditional=client.chance.random() < 0.7)


async def _change(
    client: Client, method: str, below: str, effect: Effect, *, conditional: bool = True, content_type: str = "",
    **body: Any,
) -> None:  # fmt: skip
    history = client.pick(changeable=True)
    if history is None:
        return
    revision = client.chance.choice(history.alive).revision if conditional else None
    headers = {"if-match": f'"{revision}"'} if conditional else {}
    headers |= {"content-type": content_type} if content_type else {}
    path = f"/api/files/{history.file_id}{below}"
    key = f"change-{client.new_label()}" if client.chance.random() < KEYED else None
    began_s = client.now_s
    answer = await client.ask("change", method, path, key=key, headers=headers, body=lambda: body)
    what = f"{method}{below} if {revision} {'under a key ' if key else ''}{body.get('data', '')[:30]!r}"
    history.told.append(
        f"{began_s:.1f}-{answer.ended_s:.1f} {what}: {answer.status} {answer.headers.get('location', '')}"
    )
    if answer.status in (200, 204):
        before = [state for state in history.alive if revision in (None, state.revision)]
        _made(client, history, answer, [effect(state) for state in before])
    elif answer.status == 202:
        change = history.doubt(effect, revision)
        client.queued.append(Queued(history, change, answer.headers["location"], deletes=method == "DELETE"))
    elif answer.status in RETRIED - {401} or is_running(answer) or (key and cannot_be_told(answer)):
        history.doubt(effect, revision)
    elif answer.status == 412 and revision is not None and history.may_have_left(revision):
        history.exclude(revision)
    elif answer.status == 404 and None in history.possible:
        history.acknowledge(None, client.now_s)
    elif answer.status != 401:
        client.found(answer, f"{method} of revision {revision}, and {history.file_id} is one of {history.possible}")


def _made(client: Client, history: History, answer: Answer, outcomes: list[State | None]) -> None:
    """The answer says on which of the possible states it was made."""
    made = None
    if answer.status == 204:
        client.deleted.add(history.file_id)
    else:
        record = client.record(answer)
        made = state_of(record) if record is not None else outcomes[0]
    if made not in outcomes:
        client.found(answer, f"acknowledged as {made}, which is none of {outcomes}")
    history.acknowledge(made, client.now_s)


async def follow(client: Client) -> None:
    """Asks after one of the changes that wait."""
    if client.queued:
        await ask_after(client, client.chance.choice(client.queued))


async def ask_after(client: Client, queued: Queued) -> bool:
    """True if it is decided now."""
    answer = await client.caller.ask("read", "GET", "ingester", queued.path)
    if answer.status != 200:
        if answer.status not in RETRIED:
            client.found(answer, f"{queued.path} was promised with a 202")
        return False
    state = answer.json["state"]
    client.caller.findings.counts[f"asked after a queued change: {state}"] += 1
    if state == "committed":
        queued.history.confirm(queued.change, client.now_s)
        if queued.deletes:
            client.deleted.add(queued.history.file_id)
    elif state == "refused":
        queued.history.rule_out(queued.change)
    elif state != "queued":
        client.found(answer, "a queued change is in a state of its own")
    if state in ("committed", "refused"):
        queued.history.told.append(f"{answer.ended_s:.1f} {queued.path}: {state}")
        client.queued.remove(queued)
    return bool(state != "queued")
