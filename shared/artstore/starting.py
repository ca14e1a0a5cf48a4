"""A start that is refused: one line says why, and uvicorn ends the process with status 3."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artstore.errors import StartRefused
from artstore.logs import get_logger

log = get_logger("artstore.starting")


async def run_lifespan(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Starlette sends the traceback of a failed start, and uvicorn logs it. Of a refused one the reason is enough."""
    failures: list[Message] = []

    async def hold_back(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            failures.append(message)
        else:
            await send(message)

    try:
        await app(scope, receive, hold_back)
    except BaseException as error:
        if isinstance(error, StartRefused):
            log.critical("start refused", reason=str(error))
            failures = [{"type": "lifespan.startup.failed", "message": ""}]
        for message in failures:
            await send(message)
        raise
