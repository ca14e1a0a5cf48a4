"""The requests of the clients, and their frequency."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from .changing import delete, follow, patch, replace
from .client import Client
from .counting import Counter, count
from .reading import read_attributes, read_content, search
from .uploading import upload, upload_batch

PAUSE_S, PAUSE_AFTER_NOTHING_S = 0.02, 0.3
"""Between two requests; longer when the last one was not answered."""
Kind = Callable[[Client], Awaitable[None]]


async def work(client: Client, counters: list[Counter], stop: asyncio.Event) -> None:
    counting = partial(count, counters=counters)
    shares: list[tuple[Kind, int]] = [
        (upload, 28), (upload_batch, 3), (read_attributes, 18), (read_content, 14), (patch, 16), (replace, 8), (delete, 6),
        (search, 6), (follow, 6), (counting, 8),
    ]  # fmt: skip
    kinds, weights = [kind for kind, _ in shares], [share for _, share in shares]
    while not stop.is_set():
        (kind,) = client.chance.choices(kinds, weights)
        await kind(client)
        await asyncio.sleep(PAUSE_S if client.caller.answered else PAUSE_AFTER_NOTHING_S)
