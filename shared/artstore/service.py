"""Builds and runs a service: middlewares, error handlers, access control, health, metrics and lifespan."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI
from prometheus_client import Gauge
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.server import HANDLED_SIGNALS

from artstore import __version__, failpoints
from artstore.audit.writer import open_writer
from artstore.auth.access import ENDPOINTS
from artstore.auth.guard import GuardedRoute, permission_for
from artstore.clock import Clock
from artstore.config import ServiceSettings, find_removed
from artstore.contracts.tokens import Audience
from artstore.errors import NotFound, StartRefused
from artstore.health import Health
from artstore.http.connections import Connections, allow_connections
from artstore.http.data_routes import DataRoute, PlainHandler, PlainRoute, RouteTable
from artstore.http.docs_page import docs_router
from artstore.http.edge import Edge
from artstore.http.openapi import describe
from artstore.http.problems import AllowedMethods, install_problem_handlers
from artstore.http.protocol import Connection
from artstore.http.status import status_router
from artstore.limits.gate import Limits
from artstore.limits.limiter import Limiter
from artstore.limits.load import MAX_IN_FLIGHT, Load
from artstore.limits.transfers import Transfers
from artstore.logs import configure_logs, get_logger
from artstore.metrics import FileMetrics, RequestMetrics, new_registry
from artstore.runtime import Runtime
from artstore.server import Server
from artstore.tasks import Tasks
from artstore.tracing import close_tracing, configure_tracing

log = get_logger("artstore.service")

EXPOSED_HEADERS = (
    *(
        "Content-Disposition",
        "Content-Range",
        "ETag",
        "Idempotent-Replayed",
        "Location",
        "RateLimit",
        "RateLimit-Policy",
    ),
    *("Repr-Digest", "Retry-After"),
    *("Tus-Checksum-Algorithm", "Tus-Extension", "Tus-Max-Size", "Tus-Resumable", "Tus-Version"),
    *("Upload-Defer-Length", "Upload-Expires", "Upload-Length", "Upload-Metadata", "Upload-Offset"),
    "X-ArtStore-File-Id",
    *("X-ArtStore-Degraded", "X-ArtStore-Source", "X-Request-ID"),
)
"""Response headers that scripts of an allowed origin may read."""

GC_AFTER_OBJECTS = 10_000
"""Allocations between garbage collections. Python's default of 700 is a dozen requests, which leave no
cycles."""
TRIM_MEMORY_EVERY_S = 10.0
STARTUP_FAILURE = 3
"""uvicorn's exit status for a failed start."""
KEEP_ALIVE_S = 75
"""Longer than our own clients keep an idle connection, so that none is closed while a request is being sent.
"""
OPEN_WITHIN_S = 1.0
"""The port opens when the service is ready, or this long after its start if a dependency is away: a gateway that
has not noticed a restart sends requests as soon as it can connect."""


def build_app(
    *,
    audience: Audience,
    title: str,
    settings: ServiceSettings,
    open_context: Callable[[Runtime], AbstractAsyncContextManager[Any]],
    routers: Sequence[APIRouter] = (),
    data_routes: Sequence[DataRoute] = (),
    links_port: int | None = None,
) -> FastAPI:
    """The application of one service. At `links_port` it answers signed links only. `open_context` must not fail because
    PostgreSQL, Redis or a peer is unavailable."""
    clock = Clock()
    registry = new_registry()
    files = FileMetrics(registry)
    load = Load(settings.limit_loop_lag_s, MAX_IN_FLIGHT, registry)
    limits = Limits(
        settings, Limiter(clock, load, registry), load, Transfers(settings.transfers_per_account, registry), clock
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Tasks.open() as tasks:
            audit = open_writer(settings, audience, clock, tasks, registry)
            refuse, health = partial(_refuse_start, app), Health(tasks)
            readiness = Gauge("service_ready", "1 while /health/ready answers 200", registry=registry)
            readiness.set_function(lambda: health.ready)
            runtime = Runtime(settings, clock, registry, files, health, tasks, limits.limiter, audit, refuse)
            tasks.forever("load", load.watch)
            tasks.every("trim-memory", TRIM_MEMORY_EVERY_S, _trim_memory)
            async with open_context(runtime) as context:
                app.state.runtime, app.state.context = runtime, context
                _freeze_start_objects()
                await runtime.health.wait_until_ready(OPEN_WITHIN_S)
                log.info("started", version=__version__)
                yield
                log.info("stopping")
                await tasks.close()  # before the resources that they use are closed
            await audit.finish()
            audit.close()

    app = FastAPI(
        title=title,
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.limits = limits
    allowed = AllowedMethods(ENDPOINTS[audience])
    install_problem_handlers(app, allowed)
    for router in [status_router(audience, registry), docs_router(audience, title, settings), *routers]:
        _check_listed(audience, router)
        app.include_router(router)
    plain = [
        _plain_route(audience, [route for route in data_routes if route.path == path])
        for path in dict.fromkeys(route.path for route in data_routes)
    ]
    app.router.routes.extend(one.route for one in plain)
    app.openapi = describe(app, audience, data_routes)  # type: ignore[method-assign]
    cors = partial(
        CORSMiddleware,
        allow_origins=settings.cors_allowed_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
    )
    app.middleware_stack = Edge(
        app,
        _routed(app),
        routes=RouteTable(plain),
        allowed=allowed,
        limits=limits,
        metrics=RequestMetrics(registry),
        clock=clock,
        around=cors if settings.cors_allowed_origins else None,
        links_port=links_port,
    )
    return app


def _routed(app: FastAPI) -> ASGIApp:
    """FastAPI's own layers from its exception handlers on. The edge does the work of those outside them."""
    layer: Any = app.build_middleware_stack()
    while not isinstance(layer, ExceptionMiddleware):
        layer = layer.app
    return layer


def _freeze_start_objects() -> None:
    """Freezes the objects of the start so that the garbage collector skips them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_AFTER_OBJECTS, *gc.get_threshold()[1:])


async def _trim_memory() -> None:
    """Gives free memory back to the system, which glibc keeps after large bodies. Takes about 0.5 ms."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)


def _check_listed(audience: Audience, router: APIRouter) -> None:
    for route in router.routes:
        if not isinstance(route, GuardedRoute):
            raise TypeError(f"{route} was not made by new_router()")
        for method in route.methods or ():
            permission_for(audience, method, route.path)


def _plain_route(audience: Audience, routes: Sequence[DataRoute]) -> PlainRoute:
    """One route per path, so that the answer to a wrong method lists all methods in Allow."""
    by_method = {
        method: PlainHandler(
            route.handler, permission_for(audience, method, route.path), route.honours, route.transfer, route.admit
        )
        for route in routes
        for method in route.methods
    }
    if "GET" in by_method:
        by_method.setdefault("HEAD", by_method["GET"])
    made = Route(routes[0].path, _never_called, methods=list(by_method), include_in_schema=False)
    made.methods = set(by_method)
    return PlainRoute(made, by_method)


async def _never_called(_request: Request) -> Response:
    """Never called: FastAPI sees a data route only to refuse a method, because the edge answers the others."""
    raise NotFound()


def serve(app: FastAPI, settings: ServiceSettings, service: str, links_port: int | None = None) -> None:
    """Runs until SIGTERM or SIGINT, at `links_port` too. Running requests get `shutdown_timeout_s` to finish."""
    configure_logs(service, settings.log_level, settings.log_format)
    if removed := find_removed(os.environ):
        log.warning("settings without effect: remove them, see CHANGELOG.md", names=removed)
    provider = configure_tracing(service, settings.otel_exporter_otlp_endpoint, settings.otel_traces_sampler_arg)
    failpoints.arm(os.environ)
    allow_connections(settings.max_connections)
    connections = Connections(settings.max_connections)
    config = uvicorn.Config(
        app.middleware_stack or app,  # the edge itself: FastAPI's own entrance has nothing to add
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=partial(Connection, open_connections=connections),  # type: ignore[arg-type]  # a factory, which uvicorn only calls
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # TRUSTED_PROXIES decides, and 127.0.0.1 is not trusted by default
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    server = app.state.server = Server(config, connections, partial(_stop_being_ready, app))
    try:
        server.run(_own_sockets(settings, links_port))
    finally:
        for number in HANDLED_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the remaining steps are short and bounded
        close_tracing(provider)
    if getattr(app.state, "start_refused", False):
        sys.exit(STARTUP_FAILURE)


def _own_sockets(settings: ServiceSettings, links_port: int | None) -> list[socket.socket] | None:
    """Bound sockets for a port that is shared with other processes, and for the ports of this one alone; uvicorn listens on them
    once the service has started. None: uvicorn opens the only port itself."""
    more = [port for port in (settings.own_port, links_port) if port is not None]
    if not more:
        return None
    sockets = []
    for port in (settings.port, *more):
        made = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if port == settings.port and settings.own_port is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            made.bind((settings.host, port))
        except OSError as error:
            log.critical("port cannot be opened", port=port, error=str(error))
            sys.exit(STARTUP_FAILURE)
        sockets.append(made)
    return sockets


def _stop_being_ready(app: FastAPI) -> None:
    app.state.runtime.health.stopping.set()


def _refuse_start(app: FastAPI, error: StartRefused) -> None:
    log.critical("start refused", reason=str(error))
    app.state.start_refused = True
    if hasattr(app.state, "server"):
        app.state.server.stop()
