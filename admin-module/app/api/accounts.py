"""/api/service-accounts. A client secret is returned only once, when it is created."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.event import Event
from artstore.auth.access import principal_of
from artstore.auth.guard import new_router, takes_key
from artstore.clock import rfc3339, uuid7
from artstore.contracts.idempotency import REPLAYED, Answer
from artstore.contracts.tokens import Audience, Permission, Role
from artstore.http.idempotency_key import fingerprint_of, key_of, keyed_route
from artstore.http.json import JsonResponse
from artstore.http.lists import DEFAULT_LIMIT
from artstore.http.openapi import described

from ..core.context import context_of
from ..identity import accounts as stored
from ..identity.accounts import Account
from ..identity.credentials import CLIENT_ID
from ..identity.revocations import revoke_account, revokes_tokens
from ..identity.secrets import new_secret
from ..once import Once
from .documents import ACCOUNT, ACCOUNTS, NEW_ACCOUNT
from .parameters import WHOLE, Cursor, Limit, Timestamp, allow_only, answer_page, parse_cursor, uuid_cursor

DEFAULT_GRACE_S = 24 * 3600
"""How long the old secret stays valid after a rotation when the request does not say."""
MAX_GRACE_S = 30 * 24 * 3600
MAX_RATE_PER_MINUTE = 1_000_000
_SECRET_HEADERS = {"cache-control": "no-store"}
RateLimit = Annotated[int, Field(ge=1, le=MAX_RATE_PER_MINUTE), WHOLE]
Description = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


class NewAccount(BaseModel):
    """Without a client_id one is generated."""

    model_config = ConfigDict(extra="forbid")
    client_id: Annotated[str, Field(pattern=f"^{CLIENT_ID.pattern}$")] | None = None
    role: Role = Role.USER
    permissions: list[Permission] = []
    name: Name = ""
    description: Description = ""
    rate_per_minute: RateLimit | None = None
    expires_at: Timestamp | None = None


class AccountChange(BaseModel):
    """Absent fields stay unchanged; null removes a rate or an expiry."""

    model_config = ConfigDict(extra="forbid")
    role: Role = Role.USER
    permissions: list[Permission] = []
    name: Name = ""
    description: Description = ""
    suspended: StrictBool = False
    rate_per_minute: RateLimit | None = None
    expires_at: Timestamp | None = None


class SecretRotation(BaseModel):
    """`grace_s`: how long the old secret stays valid. 0 ends it at once and revokes the account's tokens."""

    model_config = ConfigDict(extra="forbid")
    grace_s: Annotated[int, Field(ge=0, le=MAX_GRACE_S), WHOLE] | None = None


def router() -> APIRouter:
    routes = new_router(Audience.ADMIN)
    base, one = "/api/service-accounts", "/api/service-accounts/{account_id}"
    tags: list[Any] = ["accounts"]
    routes.post(
        base,
        tags=tags,
        summary="Create an account; the answer contains its secret",
        **keyed_route(described("create_account", NEW_ACCOUNT, 201)),
    )(create)
    routes.get(
        base, tags=tags, summary="All accounts", dependencies=[allow_only()], **described("list_accounts", ACCOUNTS)
    )(list_all)
    routes.get(one, tags=tags, summary="One account", **described("get_account", ACCOUNT))(show)
    routes.patch(
        one, tags=tags, summary="Change role, permissions, limits; suspend", **described("change_account", ACCOUNT)
    )(change)
    routes.delete(one, tags=tags, summary="Delete an account", **described("delete_account", None, 204))(delete)
    routes.post(
        f"{one}/rotate-secret",
        tags=tags,
        summary="Create a new secret; the old one stays valid for the grace period",
        **keyed_route(described("rotate_secret", NEW_ACCOUNT)),
    )(rotate_secret)
    return routes


@takes_key
async def create(request: Request, new: NewAccount) -> Response:
    context, once = context_of(request), _once(request, new)
    secret, now = new_secret(os.urandom), context.clock.now()
    account_id = uuid7()
    account = Account(
        account_id=account_id,
        client_id=new.client_id or f"client-{account_id}",
        role=new.role,
        own_permissions=tuple(dict.fromkeys(new.permissions)),
        name=new.name,
        description=new.description,
        suspended=False,
        rate_per_minute=new.rate_per_minute,
        expires_at=new.expires_at,
        secret_hash=context.hasher.hash(secret),
        previous_secret_hash=None,
        previous_secret_until=None,
        created_at=now,
        updated_at=now,
    )
    headers = {"location": f"/api/service-accounts/{account_id}", **_SECRET_HEADERS}
    answer = Answer(status=201, headers=headers, body=_with_secret(account, secret))
    async with context.database.begin() as conn:
        if (first := await once.find_answer(conn)) is not None:
            return _replay(first)
        await stored.insert_account(conn, account)
        await context.auditor.record(conn, _event(request, "account:create", account, _shown(account)))
        await once.keep(conn, answer)
    return _respond(answer)


async def list_all(request: Request, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> Response:
    after = parse_cursor(cursor, uuid_cursor)
    async with context_of(request).database.begin() as conn:
        rows = await stored.list_accounts(conn, after, limit + 1)
    return answer_page(rows, limit, lambda account: account.account_id, _view)


async def show(request: Request, account_id: UUID) -> Response:
    async with context_of(request).database.begin() as conn:
        return JsonResponse(_view(await stored.load_account(conn, account_id)))


async def change(request: Request, account_id: UUID, wanted: AccountChange) -> Response:
    context = context_of(request)
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    if "permissions" in given:
        given["own_permissions"] = tuple(dict.fromkeys(given.pop("permissions")))
    async with context.database.begin() as conn:
        before = await stored.load_account(conn, account_id, for_update=True)
        if given.get("role", Role.SERVICE) is not Role.SERVICE:
            given.setdefault("own_permissions", ())
        now = context.clock.now()
        after = replace(before, **given, updated_at=now)
        if _is_admin(before, now) and not _is_admin(after, now):
            await stored.check_an_admin_remains(conn, account_id)
        await stored.update_account(conn, after)
        if revokes_tokens(before, after):
            await revoke_account(conn, account_id, context.clock.unix_s())
        was, became = _shown(before), _shown(after)
        changed = {name: [was[name], became[name]] for name in became if was[name] != became[name]}
        await context.auditor.record(conn, _event(request, "account:update", after, {"changed": changed}))
    if revokes_tokens(before, after):
        await context.keyring.changed()
    return JsonResponse(_view(after))


async def delete(request: Request, account_id: UUID) -> Response:
    context = context_of(request)
    async with context.database.begin() as conn:
        account = await stored.load_account(conn, account_id, for_update=True)
        if account.role is Role.ADMIN:
            await stored.check_an_admin_remains(conn, account_id)
        await stored.delete_account(conn, account_id)
        await revoke_account(conn, account_id, context.clock.unix_s())
        await context.auditor.record(conn, _event(request, "account:delete", account, _shown(account)))
    await context.keyring.changed()
    return Response(status_code=204)


@takes_key
async def rotate_secret(request: Request, account_id: UUID, rotation: SecretRotation | None = None) -> Response:
    context, once = context_of(request), _once(request, rotation)
    given = rotation.grace_s if rotation else None
    grace_s = DEFAULT_GRACE_S if given is None else given
    secret, now = new_secret(os.urandom), context.clock.now()
    until = now + timedelta(seconds=grace_s)
    async with context.database.begin() as conn:
        if (first := await once.find_answer(conn)) is not None:
            return _replay(first)
        before = await stored.load_account(conn, account_id, for_update=True)
        account = replace(
            before,
            secret_hash=context.hasher.hash(secret),
            previous_secret_hash=before.secret_hash if grace_s else None,
            previous_secret_until=until if grace_s else None,
            updated_at=now,
        )
        await stored.update_account(conn, account)
        if not grace_s:
            await revoke_account(conn, account_id, context.clock.unix_s())
        await context.auditor.record(conn, _event(request, "account:rotate-secret", account, {"grace_s": grace_s}))
        answer = Answer(status=200, headers=_SECRET_HEADERS, body=_with_secret(account, secret))
        await once.keep(conn, answer)
    if not grace_s:
        await context.keyring.changed()
    return _respond(answer)


def _once(request: Request, given: BaseModel | None) -> Once:
    """Raises InvalidFields for a malformed key."""
    wanted = given.model_dump(mode="json") if given is not None else None
    fingerprint = fingerprint_of(request.method, request.url.path, wanted)
    return Once(context_of(request).cipher, principal_of(request).client_id, key_of(request), fingerprint)


def _with_secret(account: Account, secret: str) -> bytes:
    return orjson.dumps({**_view(account), "client_secret": secret})


def _respond(answer: Answer) -> Response:
    return JsonResponse(answer.body, answer.status, answer.headers)


def _replay(first: Answer) -> Response:
    return JsonResponse(first.body, first.status, {**first.headers, REPLAYED: "true"})


def _view(account: Account) -> dict[str, Any]:
    return {
        "id": str(account.account_id),
        **_shown(account),
        "created_at": rfc3339(account.created_at),
        "updated_at": rfc3339(account.updated_at),
    }


def _shown(account: Account) -> dict[str, Any]:
    """The members of an account that callers and the audit log may see."""
    return {
        "client_id": account.client_id,
        "role": account.role.value,
        "permissions": sorted(permission.value for permission in account.permissions),
        "name": account.name,
        "description": account.description,
        "suspended": account.suspended,
        "rate_per_minute": account.rate_per_minute,
        "expires_at": _text(account.expires_at),
        "previous_secret_valid_until": _text(account.previous_secret_until),
    }


def _event(request: Request, action: str, account: Account, metadata: dict[str, Any]) -> Event:
    return Event(action, principal_of(request).subject, str(account.account_id), metadata=metadata)


def _is_admin(account: Account, now: datetime) -> bool:
    return account.role is Role.ADMIN and account.usable(now)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
