"""Signing keys: the public JWKS document; states, rotation and revocation for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from artstore.auth.access import principal_of
from artstore.auth.guard import new_router
from artstore.clock import rfc3339
from artstore.contracts.tokens import Audience
from artstore.errors import DATABASE, Unavailable
from artstore.http.json import JsonResponse
from artstore.http.openapi import described

from ..core.context import Context, context_of
from ..identity.keyring import KeyKind
from .documents import JWKS, KEYS

JWKS_MAX_AGE_S = 15
Kid = Annotated[str, Path(max_length=128, pattern=r"^[A-Za-z0-9_-]+$")]


def router() -> APIRouter:
    routes = new_router(Audience.ADMIN)
    routes.get(
        "/.well-known/jwks.json",
        tags=["keys"],
        summary="The public keys (RFC 7517)",
        **described("get_public_keys", JWKS),
    )(jwks)
    routes.get(
        "/api/auth/keys", tags=["keys"], summary="The signing keys and their states", **described("list_keys", KEYS)
    )(list_keys)
    routes.post(
        "/api/auth/keys/rotate",
        tags=["keys"],
        summary="Rotate now: the old key of tokens still verifies for its grace period, all links end",
        **described("rotate_keys", KEYS),
    )(rotate)
    routes.post(
        "/api/auth/keys/{kid}/revoke",
        tags=["keys"],
        summary="Revoke a key and its tokens at once",
        **described("revoke_key", KEYS),
    )(revoke)
    return routes


async def jwks(request: Request) -> Response:
    keyring = context_of(request).keyring
    if not keyring.keys:
        raise Unavailable("no signing key is loaded yet", away=DATABASE)
    return JsonResponse(keyring.jwks, headers={"cache-control": f"public, max-age={JWKS_MAX_AGE_S}"})


async def list_keys(request: Request) -> Response:
    return _listed(context_of(request))


async def rotate(request: Request, kind: KeyKind | None = None) -> Response:
    """Without `kind` both the key of tokens and the key of links."""
    context = context_of(request)
    await context.keyring.rotate_now(tuple(KeyKind) if kind is None else (kind,), principal_of(request).subject)
    return _listed(context)


async def revoke(request: Request, kid: Kid) -> Response:
    """For a key that may have leaked. This may revoke the caller's own token too."""
    context = context_of(request)
    await context.keyring.revoke(kid, principal_of(request).subject)
    return _listed(context)


def _listed(context: Context) -> Response:
    items = [
        {"kid": key.kid, "state": key.state.value, "since": rfc3339(key.since), "bits": key.public_key.key_size}
        for key in context.keyring.keys
    ]
    link_key = context.keyring.link_key
    links = None if link_key is None else {"kid": link_key.kid, "since": rfc3339(link_key.since)}
    return JsonResponse({"items": items, "next_cursor": None, "link_key": links})
