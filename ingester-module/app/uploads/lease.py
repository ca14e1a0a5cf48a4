"""A transfer and the saga it belongs to, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from artstore.errors import ArtStoreError
from artstore.logs import get_logger

log = get_logger("ingester.lease")

RENEW_EVERY_S = 60.0
"""A fifth of the lease that admin gives (SAGA_LEASE_S)."""

T = TypeVar("T")


async def under_lease(
    begin: Callable[[], Awaitable[None]], transfer: Coroutine[Any, Any, T], *, renew_every_s: float = RENEW_EVERY_S
) -> T:
    """The transfer's result, once the saga is begun too. A begin that fails stops the transfer; a renewal that fails
    does not, since the commit carries all that admin needs."""
    moving = asyncio.ensure_future(transfer)
    try:
        await begin()
        while not (await asyncio.wait((moving,), timeout=renew_every_s))[0]:
            try:
                await begin()
            except ArtStoreError as error:
                log.warning("lease not renewed", error=error.detail)
        return moving.result()
    finally:
        if not moving.done():
            moving.cancel()
            await asyncio.wait((moving,))
        if not moving.cancelled():
            moving.exception()  # looked at: if it failed as well, the failure of begin is told
