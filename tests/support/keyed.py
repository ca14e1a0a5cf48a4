"""Requests under an Idempotency-Key, sent again and again as a client would, and what became of them."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx

from .fleet import Fleet

LEASE_S = 2
PATIENCE_S = 60
AGAIN = (409, 502, 503)
"""Statuses after which a client repeats; 409 only if the answer says that the key is in use."""


HELD = "SELECT 1 FROM idempotency_keys WHERE key = $1"
LEASE_OVER = "SELECT 1 FROM idempotency_keys WHERE key = $1 AND held_until < now()"


@dataclass
class Keyed:
    """One request, the same at each try. `tag` finds the files it made."""

    fleet: Fleet
    method: str = "POST"
    path: str = "/api/files/upload"
    content: bytes = b"content"
    options: dict[str, Any] = field(default_factory=dict)
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    tag: str = field(default_factory=lambda: secrets.token_hex(8))
    token: str = ""

    def send(self, at: str, **changed: Any) -> httpx.Response:
        """One try. Raises httpx.TransportError when the server dies."""
        headers = {"content-type": "application/octet-stream", "idempotency-key": self.key}
        options: dict[str, Any] = {"content": self.content, **self.options, **changed}
        headers |= options.pop("headers", {})
        if self.path.endswith("/upload"):
            options = {"params": {"filename": "a.bin", "tags": f'["{self.tag}"]'}, **options}
        token = self.token or self.fleet.token()
        return self.fleet.call(self.method, at, self.path, token, headers=headers, **options)

    def until_answered(self, at: str, **changed: Any) -> httpx.Response:
        """Repeats as a careful client does: while an answer asks for it, or without an answer."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.send(at, **changed)
                again = answer.status_code in AGAIN and answer.json()["code"] != "conflict"
            except httpx.TransportError:
                again = True
            if not again:
                return answer
            assert time.monotonic() < until_s, answer.text
            time.sleep(0.2)

    def killed_at(self, name: str, **changed: Any) -> None:
        """The request kills the process, and its client gets no answer."""
        try:
            answer = self.send(name, **changed)
            raise AssertionError(f"{name} lives: {answer.status_code} {answer.text}")
        except httpx.TransportError:
            assert self.fleet.processes.pop(name).wait(120) == -9

    def beside(self, at: str, **changed: Any) -> Beside:
        """Sent in a thread of its own."""
        return Beside(self, at, changed)

    def files(self) -> list[dict[str, Any]]:
        """Those of this tag that anybody can see."""
        return sql(
            self.fleet, "SELECT file_id::text, revision FROM files WHERE state = 'available' AND tags @> $1", [self.tag]
        )


def start(fleet: Fleet, name: str, point: str = "") -> None:
    """Armed: it kills or pauses itself at the point, `NAME:kill` or `NAME:pause`."""
    fleet.start(name, {"ARTSTORE_POINT": point})
    fleet.ready(name)


class Beside(threading.Thread):
    def __init__(self, keyed: Keyed, at: str, changed: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._keyed, self._at, self._changed = keyed, at, changed
        self.answer: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._keyed.send(self._at, **self._changed)
        except httpx.HTTPError:
            pass

    def ended(self) -> httpx.Response | None:
        self.join(PATIENCE_S)
        assert not self.is_alive()
        return self.answer


def sql(fleet: Fleet, statement: str, *values: Any) -> list[dict[str, Any]]:
    async def ask() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(fleet.postgres.url(fleet.database).replace("+asyncpg", ""))
        try:
            return [dict(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def same_answer(given: httpx.Response, first: httpx.Response | None = None) -> None:
    """`given` was given before; `first` is the first answer, if it was received."""
    assert given.headers.get("idempotent-replayed") == "true", (given.status_code, given.headers)
    if first is not None:
        assert (given.status_code, given.content) == (first.status_code, first.content)
        names = ("content-type", "location", "etag")
        assert [given.headers.get(name) for name in names] == [first.headers.get(name) for name in names]
