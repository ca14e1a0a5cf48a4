"""Accounts, storage elements, sagas and the audit log: for operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from .errors import Conflict, StillQueued, from_problem
from .pages import Listing
from .records import Account, AccountWithSecret, AuditEvent, Element, Record, Saga, time_text
from .transport import Call, Parameters, Transport
from .upload import new_key

FIRST_POLL_S = 0.1
LONGEST_POLL_S = 2.0

R = TypeVar("R", bound=Record)


class Unset:
    """The type of UNSET."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()
"""The default of an argument where None has a meaning of its own: the attribute stays as it is."""


class Accounts:
    """Service accounts (`/api/service-accounts`). `account_id` is `Account.id`, not the client id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = None) -> Listing[Account]:
        return Listing(self._transport, "/api/service-accounts", (), Account.from_json, limit)

    async def get(self, account_id: str) -> Account:
        return await _send(self._transport, Account, "GET", _account(account_id))

    async def create(
        self,
        client_id: str | None = None,
        *,
        role: str = "USER",
        permissions: Sequence[str] = (),
        name: str = "",
        description: str = "",
        rate_per_minute: int | None = None,
        expires_at: datetime | None = None,
    ) -> AccountWithSecret:
        """The answer alone shows the secret. Without a client id the service makes one. Raises Conflict for one that
        exists."""
        asked = {
            "client_id": client_id,
            "role": role,
            "permissions": [*permissions],
            "name": name,
            "description": description,
            "rate_per_minute": rate_per_minute,
            "expires_at": time_text(expires_at) if expires_at else None,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return await self._send_once("/api/service-accounts", given)

    async def update(
        self,
        account_id: str,
        *,
        role: str | Unset = UNSET,
        permissions: Sequence[str] | Unset = UNSET,
        name: str | Unset = UNSET,
        description: str | Unset = UNSET,
        suspended: bool | Unset = UNSET,
        rate_per_minute: int | Unset | None = UNSET,
        expires_at: datetime | Unset | None = UNSET,
    ) -> Account:
        """Arguments that are left out stay as they are; None removes a rate or an expiry."""
        asked = {
            "role": role,
            "permissions": permissions if isinstance(permissions, Unset) else [*permissions],
            "name": name,
            "description": description,
            "suspended": suspended,
            "rate_per_minute": rate_per_minute,
            "expires_at": time_text(expires_at) if isinstance(expires_at, datetime) else expires_at,
        }
        given = {name: value for name, value in asked.items() if not isinstance(value, Unset)}
        return await _send(self._transport, Account, "PATCH", _account(account_id), given)

    async def rotate(self, account_id: str, *, grace_s: int | None = None) -> AccountWithSecret:
        """A new secret. The old one stays valid for `grace_s` seconds, by default a day; with 0 it ends at once, with
        all tokens of the account."""
        path = f"{_account(account_id)}/rotate-secret"
        return await self._send_once(path, {} if grace_s is None else {"grace_s": grace_s})

    async def delete(self, account_id: str) -> None:
        await self._transport.send(Call("DELETE", _account(account_id), False))

    async def _send_once(self, path: str, given: dict[str, Any]) -> AccountWithSecret:
        """A repeat after a lost answer gets the first answer."""
        call = Call("POST", path, True, headers={"idempotency-key": new_key()}, json=given)
        return AccountWithSecret.from_json(await self._transport.json(call))


class Sagas:
    """Changes that wait for their element, and uploads (`/api/sagas`)."""

    def __init__(self, transport: Transport, wait_s: float) -> None:
        self._transport = transport
        self._wait_s = wait_s

    def list(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        element: str | None = None,
        hanging: bool = False,
        limit: int | None = None,
    ) -> Listing[Saga]:
        """Newest first. `hanging`: those that should be finished and are not."""
        asked = {"state": state, "kind": kind, "element": element, "hanging": "true" if hanging else None}
        return Listing(self._transport, "/api/sagas", parameters(asked), Saga.from_json, limit)

    async def get(self, saga_id: str) -> Saga:
        return await _send(self._transport, Saga, "GET", f"/api/sagas/{quote(saga_id, safe='')}")

    async def wait(self, saga_id: str, *, wait_s: float | None = None) -> Saga:
        """Returns when the change is made. Raises the error with which the element refused it, and StillQueued after
        `wait_s` seconds (by default the client's `saga_wait_s`)."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + (self._wait_s if wait_s is None else wait_s)
        pause_s = FIRST_POLL_S
        while True:
            saga = await self.get(saga_id)
            if saga.problem is not None:
                raise from_problem(saga.problem, int(saga.problem.get("status", 409)))
            if saga.state == "committed":
                return saga
            if saga.finished:
                raise Conflict(f"saga {saga_id} has ended without a change: {saga.state}")
            if loop.time() + pause_s > until_s:
                queued = StillQueued(f"saga {saga_id} is {saga.state}: {saga.last_error or 'its element is away'}")
                queued.saga_id = saga_id
                raise queued
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_POLL_S)


class Elements:
    """Storage elements (`/api/storage-elements`)."""

    def __init__(self, transport: Transport, sagas: Sagas) -> None:
        self._transport = transport
        self._sagas = sagas

    def list(self, *, limit: int | None = None) -> Listing[Element]:
        """In the order in which they are filled."""
        return Listing(self._transport, "/api/storage-elements", (), Element.from_json, limit)

    async def get(self, element_id: str) -> Element:
        return await _send(self._transport, Element, "GET", _element(element_id))

    async def set_mode(self, element_id: str, mode: str, *, wait: bool = True) -> Element | Saga:
        """To the next mode: rw to ro, ro to ar; there is no way back. While the element is away the change is queued:
        with `wait` until it is made, else the saga is returned. Raises Conflict for another step."""
        answer = await self._transport.send(Call("POST", f"{_element(element_id)}/mode", False, json={"mode": mode}))
        if answer.status_code != 202:
            return Element.from_json(answer.json())
        saga = Saga.from_json(answer.json())
        if not wait:
            return saga
        await self._sagas.wait(saga.saga_id)
        return await self.get(element_id)

    async def update(self, element_id: str, *, url: str | None = None, priority: int | None = None) -> Element:
        """Elements with a lower priority are filled first."""
        asked = {"url": url, "priority": priority}
        given = {name: value for name, value in asked.items() if value is not None}
        return await _send(self._transport, Element, "PATCH", _element(element_id), given)

    async def remove(self, element_id: str) -> None:
        """From the registry; it must be empty."""
        await self._transport.send(Call("DELETE", _element(element_id), False))

    async def verify(self, element_id: str) -> dict[str, Any]:
        """Begins to read and hash all files; the progress."""
        return dict(await self._transport.json(Call("POST", f"{_element(element_id)}/verify", False)))

    async def rebuild(self, element_id: str, *, force: bool = False) -> dict[str, Any]:
        """Begins to rebuild the catalog from the element's disk; the progress. `force`: also when most of the catalog's
        rows would be deleted."""
        call = Call("POST", f"{_element(element_id)}/rebuild", True, json={"force": force})
        return dict(await self._transport.json(call))

    async def accept_root(self, element_id: str) -> Element:
        """Accepts the refused root (the disk or bucket) that reports as this element's."""
        return await _send(self._transport, Element, "POST", f"{_element(element_id)}/accept-root")


class Audit:
    """The audit log (`/api/audit`)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def events(
        self,
        *,
        action: str | None = None,
        user_id: str | None = None,
        resource: str | None = None,
        result: str | None = None,
        service: str | None = None,
        chain: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> Listing[AuditEvent]:
        """Newest first. `since` is inclusive, `until` exclusive; all others are exact."""
        asked = {
            "action": action, "user_id": user_id, "resource": resource, "result": result, "service": service,
            "chain": chain, "since": time_text(since) if since else None, "until": time_text(until) if until else None,
        }  # fmt: skip
        return Listing(self._transport, "/api/audit", parameters(asked), AuditEvent.from_json, limit)

    async def export(self) -> AsyncIterator[bytes]:
        """All events since the newest seal as NDJSON, chain by chain."""
        answer = await self._transport.stream(Call("GET", "/api/audit", True, [("format", "ndjson")]))
        try:
            async for chunk in answer.aiter_bytes():
                yield chunk
        finally:
            await answer.aclose()

    async def verify(self, *, from_checkpoint: int | None = None) -> dict[str, Any]:
        """Verifies every chain; the report of all that was changed."""
        asked = parameters({"from_checkpoint": None if from_checkpoint is None else str(from_checkpoint)})
        return dict(await self._transport.json(Call("GET", "/api/audit/verify", True, asked)))


def parameters(asked: dict[str, str | None]) -> Parameters:
    """Without those that are None."""
    return [(name, value) for name, value in asked.items() if value is not None]


async def _send(transport: Transport, record: type[R], method: str, path: str, given: Any = None) -> R:
    return record.from_json(await transport.json(Call(method, path, method in ("GET", "PATCH"), json=given)))


def _account(account_id: str) -> str:
    return f"/api/service-accounts/{quote(account_id, safe='')}"


def _element(element_id: str) -> str:
    return f"/api/storage-elements/{quote(element_id, safe='')}"
