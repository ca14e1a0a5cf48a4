"""POST /api/auth/token: a plain route, since every module and every user passes here."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from artstore.audit.denied import LOGIN, note_denied
from artstore.errors import PROBLEM_JSON, ArtStoreError, Unavailable
from artstore.http.body import limited_receive
from artstore.http.json import JsonResponse
from artstore.http.problems import problem_response
from artstore.limits.gate import Limits
from artstore.service import DataRoute

from ..core.context import Context
from ..identity.credentials import FORM, JSON, Credentials, OAuthError, parse_credentials, plausible
from ..identity.issue import Refused

MAX_BODY_BYTES = 8192
MAX_NAME_CHARS = 128
"""Of a client_id in the audit log; anybody can send anything as one."""
NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}


async def give_token(request: Request) -> Response:
    context: Context = request.app.state.context
    form = request.headers.get("content-type", "").lower().startswith(FORM)
    try:
        body = await Request(request.scope, limited_receive(request, MAX_BODY_BYTES)).body()
        credentials = parse_credentials(request.headers.get("content-type", ""), _authorization(request), body)
        access_token, lifetime_s = await _login(request, context, credentials)
    except OAuthError as error:
        return _oauth_problem(error)
    except Refused as error:
        if form:
            return _oauth_problem(OAuthError("invalid_client", error.detail, status=401, basic=credentials.basic))
        return _no_store(problem_response(error))
    except ArtStoreError as error:
        if form and isinstance(error, Unavailable):
            return _oauth_problem(OAuthError("temporarily_unavailable", error.detail, status=503), error.headers())
        return _no_store(problem_response(error))
    answer = {"access_token": access_token, "token_type": "Bearer", "expires_in": lifetime_s}
    return JsonResponse(orjson.dumps(answer), headers=NO_STORE)


def _authorization(request: Request) -> str | None:
    """Raises OAuthError: of two, nobody knows which one a proxy in front has looked at."""
    values = request.headers.getlist("authorization")
    if len(values) > 1:
        raise OAuthError("invalid_request", "one Authorization header is enough")
    return values[0] if values else None


async def _login(request: Request, context: Context, credentials: Credentials) -> tuple[str, int]:
    limits: Limits = request.app.state.limits
    try:
        if not plausible(credentials):
            raise Refused("malformed")
        account = await context.issuer.authenticate(credentials.client_id, credentials.client_secret)
    except Refused as error:
        shown = credentials.client_id.encode("ascii", "backslashreplace").decode()
        name = "".join(char if char.isprintable() else "?" for char in shown)[:MAX_NAME_CHARS]
        await note_denied(request, error, name, action=LOGIN, reason=error.reason, account=error.account)
        await limits.fail_login(request, name)
        raise
    # Before the signature, which is what a login costs.
    await limits.admit_login(request, str(account.account_id), account.rate_per_minute)
    return context.issuer.issue(account)


def _oauth_problem(error: OAuthError, headers: dict[str, str] | None = None) -> Response:
    """RFC 6749 §5.2."""
    challenge = {"www-authenticate": 'Basic realm="artstore"'} if error.status == 401 else {}
    body = orjson.dumps({"error": error.error, "error_description": error.description})
    return JsonResponse(body, error.status, {**NO_STORE, **challenge, **(headers or {})})


def _no_store(response: Response) -> Response:
    response.headers.update(NO_STORE)
    return response


_CREDENTIALS: dict[str, Any] = {
    "type": "object",
    "required": ["client_id", "client_secret"],
    "properties": {"client_id": {"type": "string"}, "client_secret": {"type": "string"}},
}
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["grant_type"],
    "properties": {**_CREDENTIALS["properties"], "grant_type": {"type": "string", "enum": ["client_credentials"]}},
}
_TOKEN: dict[str, Any] = {
    "type": "object",
    "required": ["access_token", "token_type", "expires_in"],
    "properties": {
        "access_token": {"type": "string"},
        "token_type": {"type": "string", "enum": ["Bearer"]},
        "expires_in": {"type": "integer"},
    },
}
_OAUTH_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
}


def _refusal(description: str) -> dict[str, Any]:
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {"description": description, "content": {JSON: {"schema": _OAUTH_ERROR}, PROBLEM_JSON: problem}}


ROUTES = [
    DataRoute(
        path="/api/auth/token",
        methods=["POST"],
        handler=give_token,
        openapi={
            "post": {
                "tags": ["tokens"],
                "summary": "An access token for client credentials: JSON, or the form of RFC 6749 with or without Basic",
                "operationId": "give_token",
                "requestBody": {
                    "required": True,
                    "content": {JSON: {"schema": _CREDENTIALS}, FORM: {"schema": _FORM}},
                },
                "responses": {
                    "200": {"description": "The token", "content": {JSON: {"schema": _TOKEN}}},
                    "400": _refusal("A request that cannot be understood"),
                    "401": _refusal("The credentials are not valid"),
                    "503": _refusal("The accounts cannot be read now"),
                },
            }
        },
    )
]
