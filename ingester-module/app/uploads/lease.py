"""A transfer and the saga it belongs to, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from artstore.errors import ArtStoreError
from artstore.logs import get_logger
from artstore.tasks import spawn

log = get_logger("ingester.lease")

RENEWALS_IN_A_LEASE = 5
T = TypeVar("T")


async def under_lease(begin: Callable[[], Awaitable[float]], transfer: Coroutine[Any, Any, T]) -> T:
    """The transfer's result, once the saga is begun too. `begin` answers how long the lease is. One that fails stops the
    transfer; a renewal that fails does not, since the commit carries all that admin needs."""
    moving = spawn("transfer", transfer)
    try:
        lease_s = await begin()
        while not (await asyncio.wait((moving,), timeout=lease_s / RENEWALS_IN_A_LEASE))[0]:
            try:
                lease_s = await begin()
            except ArtStoreError as error:
                log.warning("lease not renewed", error=error.detail)
        return moving.result()
    finally:
        if not moving.done():
            moving.cancel()
            await asyncio.wait((moving,))
