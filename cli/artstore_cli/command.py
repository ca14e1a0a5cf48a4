"""How a client command runs: it gets a Session, and the options --json, --data and --profile without saying so.

    @client_command(app, "info")
    async def info(session: Session, file_id: Annotated[str, typer.Argument()]) -> None:

Imports must stay cheap here and in `commands`: all commands are loaded for each run, `--help` and completion included.
A command imports the rest, beyond typer, when it runs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .errors import ClosedPipe, ExitCode
from .output import Output

if TYPE_CHECKING:
    from artstore_client import Client

    from .connection import Connection

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: one object a line. Errors too, on standard error.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Use the local system that runs on this folder, without a login.")
]
Profile = Annotated[str | None, typer.Option("--profile", help="Use this profile of `artstore login`.")]
RETRY_FOR_S = 5.0
TRANSFER_RETRY_FOR_S = 20.0
"""Long enough for the restart of a service behind the gateway, and for a person who waits."""
LOOPBACK_CONNECTIONS = 100
CONNECTION_OPTIONS = (("data", Data, None), ("profile", Profile, None))


@dataclass(frozen=True)
class Session:
    """The means of a client command: the service, its output, and the connection."""

    store: Client
    out: Output
    connection: Connection


Handler = TypeVar("Handler", bound=Callable[..., Awaitable[int | None]])
Function = TypeVar("Function", bound=Callable[..., int | None])


def client_command(
    app: typer.Typer, name: str, *, retry_for_s: float = RETRY_FOR_S, **settings: Any
) -> Callable[[Handler], Handler]:
    """Register an async function of (session, arguments and options) that returns an exit code, or None for 0.
    `retry_for_s`: how long requests are repeated while the system is away."""

    def register(handler: Handler) -> Handler:
        def run(data: Path | None, profile: str | None, as_json: bool, **given: Any) -> None:
            _leave(Output(as_json), lambda out: _in_session(handler, out, data, profile, retry_for_s, given))

        _register(app, name, run, handler, CONNECTION_OPTIONS, settings)
        return handler

    return register


def plain_command(app: typer.Typer, name: str, **settings: Any) -> Callable[[Function], Function]:
    """The same for a function of (out, arguments and options) that needs no connection."""

    def register(function: Function) -> Function:
        def run(as_json: bool, **given: Any) -> None:
            _leave(Output(as_json), lambda out: function(out, **given))

        _register(app, name, run, function, (), settings)
        return function

    return register


def _register(
    app: typer.Typer,
    name: str,
    run: Callable[..., None],
    described: Callable[..., Any],
    options: tuple[tuple[str, Any, Any], ...],
    settings: dict[str, Any],
) -> None:
    """typer reads the signature: that of `described` without its first parameter, and the common options."""
    own = list(inspect.signature(described, eval_str=True).parameters.values())[1:]
    common = [
        inspect.Parameter(one, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for one, annotation, default in (*options, ("as_json", AsJson, False))
    ]
    parameters = [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *common]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    run.__doc__ = described.__doc__
    app.command(name, **settings)(run)


def _leave(out: Output, work: Callable[[Output], int | None]) -> None:
    """Runs the command and ends with its exit code."""
    try:
        try:
            code = int(work(out) or ExitCode.DONE)
        except ClosedPipe:
            raise
        except (KeyboardInterrupt, typer.Abort):
            from .failures import interruption

            out.error(interruption())
            code = ExitCode.INTERRUPTED
        except Exception as error:
            from .failures import describe

            failure = describe(error)
            out.error(failure.shown())
            code = failure.exit_code
    except ClosedPipe:
        code = ExitCode.CLOSED_PIPE
    raise typer.Exit(code)


def _in_session(
    handler: Callable[..., Awaitable[int | None]],
    out: Output,
    data: Path | None,
    profile: str | None,
    retry_for_s: float,
    given: dict[str, Any],
) -> int | None:
    import asyncio

    from .connection import find_connection

    connection = find_connection(data, profile)

    async def run() -> int | None:
        async with client_of(connection, retry_for_s) as store:
            return await handler(Session(store, out, connection), **given)

    return asyncio.run(run())


def client_of(connection: Connection, retry_for_s: float = RETRY_FOR_S) -> Client:
    """No proxy of the environment is used for an address of this machine."""
    from artstore_client import Client

    transport = None
    if connection.on_loopback:
        import httpx

        limits = httpx.Limits(max_connections=LOOPBACK_CONNECTIONS)
        transport = httpx.AsyncHTTPTransport(verify=False, limits=limits)
    return Client(
        connection.url,
        client_id=connection.client_id,
        client_secret=connection.client_secret,
        retry_for_s=retry_for_s,
        transport=transport,
    )


def usage_failure(error: typer.TyperException, arguments: list[str]) -> int:
    """Shows wrong usage, as JSON when the arguments ask for it. Returns the exit code."""
    code = int(error.exit_code)
    if "--json" in arguments:
        Output(as_json=True).error({"code": "usage", "message": error.format_message(), "exit_code": code})
    elif show := getattr(error, "show", None):
        show()
    else:
        sys.stderr.write(f"artstore: {error}\n")
    return code
