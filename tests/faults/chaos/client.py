"""A client: uploads, changes, deletes, reads and searches its own files, and holds each answer against their history."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from .asking import REFUSALS, Answer, Caller
from .history import Effect, History, State, deleted, patched, replaced
from .staleness import excused

SMALL_BYTES, LARGE_BYTES = 2_000, 3 << 20
PAUSE_S, PAUSE_AFTER_NOTHING_S = 0.02, 0.3
FORM = "multipart/form-data"
UNTOLD = frozenset({0, 401, 404, 408, *REFUSALS})
"""Answers after which an upload may or may not have happened; 401 and 404 for what they are not: see `_judge`."""


@dataclass(frozen=True, slots=True)
class Untold:
    """An upload without an acknowledgement: there may be one file of this label, with these bytes."""

    label: str
    sha256: str


class Client:
    def __init__(self, name: str, caller: Caller) -> None:
        self.name, self._caller, self._chance = name, caller, caller.chance
        self._number = 0
        self.files: dict[str, History] = {}
        self.untold: list[Untold] = []
        self.deleted: set[str] = set()
        """Files whose delete was answered with 204."""
        self._kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.upload, 30),
            (self.read_attributes, 18),
            (self.read_content, 14),
            (self.patch, 18),
            (self.replace, 8),
            (self.delete, 6),
            (self.search, 6),
        ]

    async def run(self, stop: asyncio.Event) -> None:
        kinds, weights = [kind for kind, _ in self._kinds], [weight for _, weight in self._kinds]
        while not stop.is_set():
            (kind,) = self._chance.choices(kinds, weights)
            await kind()
            await asyncio.sleep(PAUSE_S if self._caller.answered else PAUSE_AFTER_NOTHING_S)

    async def upload(self) -> None:
        label = self._label()
        size = self._chance.choices((0, SMALL_BYTES, 70_000, LARGE_BYTES), (1, 20, 5, 2))[0]
        content = self._chance.randbytes(self._chance.randint(size // 2, size))
        temporary = self._chance.random() < 0.7
        fields = {"filename": f"{label}.bin", "metadata": json.dumps({"label": label}), "tags": '["chaos"]'}
        fields |= {"retention": "temporary", "ttl_days": "2"} if temporary else {"retention": "permanent"}
        sha256 = hashlib.sha256(content).hexdigest()
        answer = await self._upload(fields, content, as_form=self._chance.random() < 0.3)
        if answer.status == 201:
            record = self._record(answer)
            if record is not None:
                state = State(1, sha256, label)
                file_id, now_s = record["file_id"], self._caller.weather.now_s
                self.files[file_id] = History(file_id, {state}, now_s, changeable=temporary)
                if _state_of(record) != state:
                    self._found(answer, f"acknowledged as {_state_of(record)}, not {state}")
            return
        self.untold.append(Untold(label, sha256))
        if answer.status not in UNTOLD:
            self._found(answer, "an upload was answered so")

    async def _upload(self, fields: dict[str, str], content: bytes, *, as_form: bool) -> Answer:
        path = "/api/files/upload"
        if not as_form:
            headers = {"content-type": "application/octet-stream"}
            return await self._caller.ask(
                "upload", "POST", "ingester", path, params=fields, data=content, headers=headers
            )
        form = aiohttp.FormData()
        for name, value in fields.items():
            if name != "filename":
                form.add_field(name, value)
        form.add_field("file", content, filename=fields["filename"], content_type="application/octet-stream")
        return await self._caller.ask("upload", "POST", "ingester", path, data=form)

    async def patch(self) -> None:
        label = self._label()
        body = json.dumps({"metadata": {"label": label}, "tags": ["chaos", label]})
        await self._change("PATCH", "", patched(label), data=body, headers={"content-type": "application/json"})

    async def replace(self) -> None:
        content = self._chance.randbytes(self._chance.choice((100, SMALL_BYTES, 70_000, 1 << 20)))
        effect = replaced(hashlib.sha256(content).hexdigest())
        await self._change(
            "PUT", "/content", effect, data=content, headers={"content-type": "application/octet-stream"}
        )

    async def delete(self) -> None:
        await self._change("DELETE", "", deleted, conditional=self._chance.random() < 0.7, headers={})

    async def _change(
        self, method: str, below: str, effect: Effect, *, headers: dict[str, str], conditional: bool = True, **body: Any
    ) -> None:
        """On a revision that the client believes in, so that nothing it does not know of is overwritten."""
        history = self._pick(changeable=True)
        if history is None:
            return
        revision = self._chance.choice(history.alive).revision
        condition = {"if-match": f'"{revision}"'} if conditional else {}
        path = f"/api/files/{history.file_id}{below}"
        answer = await self._caller.ask("change", method, "ingester", path, headers=headers | condition, **body)
        if answer.status in (200, 204):
            before = [state for state in history.alive if state.revision == revision or not conditional]
            self._changed(history, answer, [effect(state) for state in before])
        elif answer.status in (0, 202, 408, *REFUSALS):
            # 202: queued, to be made when the element is back, or refused then
            history.doubt(effect, revision if conditional else None)
        elif answer.status == 412 and history.may_have_left(revision):
            history.exclude(revision)
        elif answer.status == 404 and None in history.possible:
            history.acknowledge(None, self._caller.weather.now_s)
        elif answer.status != 401:
            self._found(answer, f"{method} of revision {revision}, and {history.file_id} is one of {history.possible}")

    def _changed(self, history: History, answer: Answer, outcomes: list[State | None]) -> None:
        """The answer says which of the possible states it was made on."""
        made = None
        if answer.status == 204:
            self.deleted.add(history.file_id)
        else:
            record = self._record(answer)
            made = _state_of(record) if record is not None else outcomes[0]
        if made not in outcomes:
            self._found(answer, f"acknowledged as {made}, which is none of {outcomes}")
        history.acknowledge(made, self._caller.weather.now_s)

    async def read_attributes(self) -> None:
        history = self._pick()
        if history is None:
            return
        answer = await self._caller.ask("read", "GET", "query", f"/api/files/{history.file_id}")
        if answer.status == 200:
            record = self._record(answer)
            if record is not None:
                self._read(history, answer, _state_of(record))
        elif answer.status == 404:
            self._read(history, answer, None)
        elif answer.status not in (0, 401, *REFUSALS):
            self._found(answer, f"{history.file_id} may be {history.possible}")

    async def read_content(self) -> None:
        history = self._pick()
        if history is None:
            return
        answer = await self._caller.ask("read", "GET", "query", f"/api/files/{history.file_id}/content")
        if answer.status == 404:
            self._read(history, answer, None)
        elif answer.status == 200:
            tag = answer.headers.get("etag", "").strip('"')
            if tag != f"sha256:{answer.sha256}":
                self._found(answer, f"the bytes are sha256:{answer.sha256}, the ETag {tag}")
            fitting = [state for state in history.seen if state is not None and state.sha256 == answer.sha256]
            if not fitting:
                self._found(answer, f"{history.file_id} never had the bytes {answer.sha256}")
            elif not any(state in history.possible for state in fitting):
                self._stale(history, answer, max(fitting, key=lambda state: state.revision))
        elif answer.status not in (0, 401, *REFUSALS):
            self._found(answer, f"{history.file_id} may be {history.possible}")

    async def search(self) -> None:
        params = {"limit": "20", "owner": self._caller.account["client_id"]}
        if self._chance.random() < 0.5 and self._number:
            params = {"metadata.label": f"{self.name}-{self._chance.randrange(self._number)}"}
        answer = await self._caller.ask("read", "GET", "query", "/api/files", params=params)
        if answer.status == 200:
            for record in answer.json["items"]:
                history = self.files.get(record["file_id"])
                if history is not None and _state_of(record) not in history.seen:
                    self._found(answer, f"a list has {record}, which was one of {history.seen}")
        elif answer.status not in (0, 401, *REFUSALS):
            self._found(answer, "a list was answered so")

    def _read(self, history: History, answer: Answer, state: State | None) -> None:
        """What was read may be one of the possible states; an older one only with an excuse."""
        if state in history.possible:
            return
        if state not in history.seen:
            self._found(answer, f"read {state}: {history.file_id} never was more than {history.seen}")
        else:
            self._stale(history, answer, state)

    def _stale(self, history: History, answer: Answer, state: State | None) -> None:
        why = excused(self._caller.weather, history, answer)
        if why is None:
            since_s = answer.began_s - history.acknowledged_at_s
            self._found(answer, f"stale by {since_s:.1f} s: read {state}, it is {history.possible}")
        else:
            self._caller.findings.counts[f"stale, excused by {why}"] += 1

    def _pick(self, *, changeable: bool = False) -> History | None:
        """One of its files, of late more often."""
        known = [one for one in self.files.values() if not changeable or (one.changeable and one.alive)]
        if not known:
            return None
        return self._chance.choice(known[-8:]) if self._chance.random() < 0.6 else self._chance.choice(known)

    def _record(self, answer: Answer) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = answer.json
            _state_of(record)
        except (ValueError, KeyError, TypeError):
            self._found(answer, "no record")
            return None
        return record

    def _label(self) -> str:
        self._number += 1
        return f"{self.name}-{self._number}"

    def _found(self, answer: Answer, what: str) -> None:
        headers = {
            name: answer.headers[name] for name in answer.headers if name.startswith(("x-artstore", "x-request"))
        }
        self._caller.findings.add(
            answer.ended_s, f"{what}: {answer.instance} answered {answer.status} {headers} {answer.body[:300]!r}"
        )


def _state_of(record: dict[str, Any]) -> State:
    return State(record["revision"], record["checksum"].removeprefix("sha256:"), record["metadata"]["label"])
