"""A service made of nothing but the common parts, over real sockets: edge, problems, access, health, metrics, OpenAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from socket import socket as Socket
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from artstore.auth.access import ENDPOINTS, principal_of
from artstore.auth.guard import new_router
from artstore.auth.tokens import TokenVerifier
from artstore.clock import Clock
from artstore.config import ServiceSettings
from artstore.contracts.tokens import Audience, Permission, Role
from artstore.errors import BY_CODE, Conflict
from artstore.http.connections import Connections
from artstore.http.data_routes import DataRoute
from artstore.http.json import JsonResponse
from artstore.http.protocol import Connection
from artstore.runtime import Runtime
from artstore.service import build_app
from artstore.testing.tokens import Signer

SIGNER = Signer()


@dataclass(frozen=True)
class Context:
    verifier: TokenVerifier


@asynccontextmanager
async def open_context(runtime: Runtime) -> AsyncIterator[Context]:
    runtime.health.add("always", _well)
    yield Context(TokenVerifier(SIGNER, Audience.QUERY, Clock()))


async def _well() -> None:
    return None


async def files(request: Request) -> Response:
    wanted = request.query_params.get("do")
    if wanted == "conflict":
        raise Conflict("as asked", field="x")
    if wanted == "crash":
        raise RuntimeError("a secret detail")
    if wanted in ("202", "204", "304"):
        return Response(status_code=int(wanted), headers={"referrer-policy": "origin"})
    if wanted == "split":
        return Response(headers={"x-name": "a\r\nset-cookie: b"})
    if wanted == "short":
        return Response(b"abc", headers={"content-length": "4"})
    return JsonResponse({"client_id": principal_of(request).client_id})


async def file(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("in the middle")

    return StreamingResponse(body(), headers={"content-length": "8"})


def app(**settings: Any) -> FastAPI:
    return build_app(
        audience=Audience.QUERY,
        title="test",
        settings=ServiceSettings(port=1, **settings),
        open_context=open_context,
        data_routes=[
            DataRoute("/api/files", ["GET"], files, {"get": {"summary": "files"}}),
            DataRoute("/api/files/{file_id}", ["GET"], file, {"get": {"summary": "file"}}),
        ],
    )


class _Server(uvicorn.Server):
    """Leaves the signals to pytest."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture(scope="module", params=["ours", "h11"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    """On our own connections, which take a complete response in one call, and on those of another server."""
    http = partial(Connection, open_connections=Connections()) if request.param == "ours" else request.param
    async with serving(app(), http) as opened:
        yield opened


@asynccontextmanager
async def serving(app: FastAPI, http: Any = "h11") -> AsyncIterator[httpx.AsyncClient]:
    held = Socket()
    held.bind(("127.0.0.1", 0))
    server = _Server(uvicorn.Config(app, http=http, lifespan="on", log_config=None, timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve([held]))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{held.getsockname()[1]}") as opened:
        yield opened
    server.should_exit = True
    await task


def bearer(role: Role = Role.READONLY, permissions: frozenset[Permission] | None = None) -> dict[str, str]:
    return {"authorization": f"Bearer {SIGNER.token(role, permissions)}"}


@pytest.mark.parametrize("path", ["/api/files/", "/health/live/", "/api/files/x/"])
async def test_a_slash_too_many_is_another_address(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers=bearer())
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_caller_with_the_permission_is_admitted_and_identified(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/files", headers=bearer())
    assert (answer.status_code, answer.json()) == (200, {"client_id": "tester"})


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Basic dXNlcjpwYXNz", "Bearer x", "bearer a.b.c", "Bearer a b"]
)
async def test_an_unauthenticated_caller_is_refused(client: httpx.AsyncClient, authorization: str) -> None:
    answer = await client.get("/api/files", headers={"authorization": authorization})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    is_token = authorization.lower().startswith("bearer ")
    expected = 'Bearer realm="artstore"' + (', error="invalid_token"' if is_token else "")
    assert answer.headers["www-authenticate"] == expected


async def test_a_token_counts_only_in_the_header_and_only_one(client: httpx.AsyncClient) -> None:
    token = bearer()["authorization"]
    assert (await client.get(f"/api/files?access_token={token.removeprefix('Bearer ')}")).status_code == 401
    twice = await client.get("/api/files", headers=[("authorization", token), ("authorization", token)])
    assert twice.status_code == 401


@pytest.mark.parametrize(
    ("role", "permissions"), [(Role.AUDITOR, None), (Role.SERVICE, frozenset()), (Role.USER, frozenset())]
)
async def test_a_caller_without_the_permission_is_refused_with_its_name(
    client: httpx.AsyncClient, role: Role, permissions: frozenset[Permission] | None
) -> None:
    answer = await client.get("/api/files", headers=bearer(role, permissions))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert answer.json()["permission"] == "files:read"
    assert 'error="insufficient_scope", scope="files:read"' in answer.headers["www-authenticate"]


async def test_every_error_is_a_problem_document(client: httpx.AsyncClient) -> None:
    for path, status, code in (
        ("/api/files?do=conflict", 409, "conflict"),
        ("/api/files?do=crash", 500, "internal_error"),
        ("/nowhere", 404, "not_found"),
        ("/api/files/a/b/c", 404, "not_found"),
    ):
        answer = await client.get(path, headers=bearer())
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == code
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert "secret detail" not in answer.text


async def test_a_wrong_method_is_answered_with_the_right_ones(client: httpx.AsyncClient) -> None:
    for method in ("POST", "DELETE", "PATCH"):
        answer = await client.request(method, "/api/files", headers=bearer())
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs", "/api/files", "/nowhere"]
)
async def test_head_is_answered_like_get_without_the_content(client: httpx.AsyncClient, path: str) -> None:
    get, head = await client.get(path, headers=bearer()), await client.head(path, headers=bearer())
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize("field", ["if-match", "if-unmodified-since"])
async def test_a_condition_that_nothing_evaluates_is_refused(client: httpx.AsyncClient, field: str) -> None:
    for path in ("/api/files", "/health/live"):
        answer = await client.get(path, headers={**bearer(), field: '"1"'})
        assert (answer.status_code, answer.json()["code"]) == (400, "unsupported_header")


@pytest.mark.parametrize("status", [202, 204, 304])
async def test_an_answer_without_content_keeps_its_own_headers(client: httpx.AsyncClient, status: int) -> None:
    for _ in range(2):
        answer = await client.get(f"/api/files?do={status}", headers=bearer())
        assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers.get_list("referrer-policy") == ["origin"]
        assert answer.headers["ratelimit"].startswith('"account";r=')


@pytest.mark.parametrize("fault", ["split", "short"])
async def test_a_header_that_would_break_the_framing_is_not_sent(client: httpx.AsyncClient, fault: str) -> None:
    try:
        answer = await client.get(f"/api/files?do={fault}", headers=bearer())
    except httpx.TransportError:
        return
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers


async def test_head_of_a_streamed_answer_makes_nothing_of_it(client: httpx.AsyncClient) -> None:
    answer = await client.head("/api/files/x", headers=bearer())
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "8", b"")


async def test_a_page_of_an_allowed_origin_may_read_every_answer() -> None:
    """Also the refusal that takes the place of an answer."""
    origin = "https://page.example"
    page = {"origin": origin}
    async with serving(app(cors_allowed_origins=[origin], ip_block_after_failures=2)) as client:
        asked = await client.options("/api/files", headers={**page, "access-control-request-method": "GET"})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, origin)
        assert "x-request-id" in asked.headers
        assert "ratelimit" not in asked.headers
        read = await client.get("/api/files", headers={**page, **bearer()})
        assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, origin)
        assert read.headers["ratelimit"].startswith('"account";r=')
        seen = [await client.get("/api/files", headers={**page, "authorization": "Bearer x"}) for _ in range(5)]
        assert {answer.headers["access-control-allow-origin"] for answer in seen} == {origin}
        assert [answer.status_code for answer in seen][::4] == [401, 429]
        assert seen[-1].json()["request_id"] == seen[-1].headers["x-request-id"]


async def test_half_an_answer_breaks_the_connection(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/api/files/x", headers=bearer())


@pytest.mark.parametrize("given", ["abc-1", "", "a\tb", "x" * 129, "ä"])
async def test_every_answer_has_a_request_id_and_a_harmless_one_is_kept(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/health/live", headers={b"x-request-id": given.encode()})
    assert (answer.headers["x-request-id"] == given) is (given == "abc-1")
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_health_and_metrics_are_open_and_name_no_path(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live")).status_code == 200
    while (ready := await client.get("/health/ready")).status_code != 200:
        await asyncio.sleep(0.01)
    assert ready.json()["checks"]["always"]["ok"] is True
    await client.get("/api/files?filename=secret-name", headers=bearer())
    await client.get("/wp-admin/secret-name")
    metrics = (await client.get("/metrics")).text
    assert "http_requests_total" in metrics
    assert "http_request_duration_seconds" in metrics
    assert "secret-name" not in metrics


async def test_the_document_names_permissions_and_problems(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/api/files"]["get"]
    assert operation["x-permission"] == "files:read"
    assert operation["security"] == [{"token": []}, {"login": ["files:read"]}]
    assert set(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(BY_CODE)


def test_a_route_that_is_not_in_the_table_of_permissions_cannot_be_built() -> None:
    router = new_router(Audience.QUERY)

    @router.get("/api/forgotten")
    async def forgotten() -> None: ...

    unguarded = APIRouter()

    @unguarded.get("/api/files")
    async def open_to_all() -> None: ...

    for wrong, error in ((router, KeyError), (unguarded, TypeError)):
        with pytest.raises(error):
            build_app(
                audience=Audience.QUERY,
                title="test",
                settings=ServiceSettings(port=1),
                open_context=open_context,
                routers=[wrong],
            )


def test_only_these_endpoints_are_open_to_everybody() -> None:
    opened = {
        name
        for table in ENDPOINTS.values()
        for name, permission in table.items()
        if permission is None and "/api/" not in name
    }
    assert opened == {
        "GET /health/live",
        "GET /health/ready",
        "GET /metrics",
        "GET /docs",
        "GET /docs/{name}",
        "GET /openapi.json",
        "GET /.well-known/oauth-authorization-server",
        "GET /.well-known/jwks.json",
    }
    api = {name for table in ENDPOINTS.values() for name, needed in table.items() if needed is None and "/api/" in name}
    assert api == {
        "POST /api/auth/token",
        "GET /api/links/{link}",
        "HEAD /api/links/{link}",
        "OPTIONS /api/uploads",  # tus clients ask for the extensions before they log in
        "OPTIONS /api/uploads/{upload_id}",
    }


async def test_a_cancelled_request_is_not_swallowed() -> None:
    """The edge lets cancellation through: a server that stops is not kept."""
    built = app()
    started = asyncio.Event()

    async def never() -> Message:
        started.set()
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        await never()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/health/live",
        "headers": [],
        "query_string": b"",
        "raw_path": b"",
    }
    task = asyncio.create_task(built({**scope, "app": built}, never, send))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
