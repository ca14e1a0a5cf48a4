"""Level 2: the cache in Redis that all query instances share, for an hour, by the scripts of `artstore.catalog.recent`.

Levels 1 and 2 are not trusted while Redis refuses writes, because changes cannot be announced then. The protocol is in
docs/decisions/0003-read-your-writes.md.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from artstore.catalog.recent import DROP, EPOCH_KEY, FIND, FLOOR_S, KEEP, keys_of
from artstore.contracts.files import decode
from artstore.errors import REDIS, Unavailable
from artstore.groups import Group
from artstore.redis import CountedRedis
from artstore.tracing import begin_work

from .memory import Record

TTL_S = 3600
MAX_GROUP = 64
"""Files in one script, which runs for about 5 µs each."""
FILL_PAUSE_S = 0.02
"""Before offered records are kept, so that one script keeps several."""
MAX_OFFERED = 10_000
"""Records waiting to be kept. Further ones are not kept; the next read finds them below."""


@dataclass(frozen=True, slots=True)
class RedisEntry:
    """`floor` is the lowest revision that a recent change left valid. `lease` permits `offer` of what is read below."""

    record: Record | None
    floor: int
    lease: str


class RedisLevel:
    """`find`, `lease` and `drop` raise Unavailable without Redis. Concurrent lookups share a script."""

    def __init__(self, redis: CountedRedis) -> None:
        self._redis = redis
        self._epoch = ""
        self._subscribed_in: int | None = None
        redis.on_accepted(self._agree_on_epoch)
        self._find = redis.register_script(FIND)
        self._keep = redis.register_script(KEEP)
        self._drop = redis.register_script(DROP)
        self._queries: Group[tuple[str, str], tuple[str, int, str]] = Group(self._find_all, max_items=MAX_GROUP)
        self._offered: OrderedDict[str, tuple[Record, str]] = OrderedDict()
        self._offer_made = asyncio.Event()

    @property
    def is_subscribed(self) -> bool:
        """The subscription has lasted since Redis last came back and Redis takes writes, so level 1 is current."""
        return self._redis.takes_writes and self._subscribed_in == self._redis.generation

    def note_subscribed(self, subscribed: bool) -> None:
        self._subscribed_in = self._redis.generation if subscribed else None

    async def _agree_on_epoch(self, returned: bool) -> None:
        """Starts a new epoch after an outage, else joins the current one. Records of older epochs are invalid."""
        fresh = secrets.token_hex(8)
        if returned:
            await self._redis.set(EPOCH_KEY, fresh)
            self._epoch = fresh
            return
        await self._redis.set(EPOCH_KEY, fresh, nx=True)
        self._epoch = str(await self._redis.get(EPOCH_KEY) or fresh)

    async def find(self, file_id: str) -> RedisEntry:
        entry, text = await self._query(file_id, "record")
        if not text:
            return entry
        encoded = text.encode()
        try:
            return RedisEntry(Record(decode(encoded), encoded), entry.floor, entry.lease)
        except ValueError:  # written by a different version of this module
            return await self.lease(file_id)

    async def lease(self, file_id: str) -> RedisEntry:
        """An entry without the record. Must be taken before the levels below are read."""
        return (await self._query(file_id, "lease"))[0]

    def offer(self, record: Record, lease: str) -> None:
        """Keeps the record soon, unless a change is announced after the lease. Never waits."""
        if len(self._offered) < MAX_OFFERED:
            self._offered[record.attributes.file_id] = (record, lease)
            self._offer_made.set()

    async def fill(self) -> None:
        """The background task that keeps what was offered. Records are lost while Redis is unavailable."""
        while True:
            await self._offer_made.wait()
            await asyncio.sleep(FILL_PAUSE_S)
            self._offer_made.clear()
            begin_work("redis-fill")
            while self._offered:
                count = min(MAX_GROUP, len(self._offered))
                await self._keep_all([self._offered.popitem(last=False)[1] for _ in range(count)])

    async def _keep_all(self, offered: Sequence[tuple[Record, str]]) -> None:
        keys = [key for record, _ in offered for key in keys_of(record.attributes.file_id)]
        args: list[str | bytes | int] = [self._epoch, TTL_S]
        for record, lease in offered:
            args += [record.revision, record.encoded, lease]
        await self._keep(keys=keys, args=args)

    async def drop(self, file_id: str, floor: int) -> None:
        """Drops revisions below `floor` and refuses them for FLOOR_S."""
        try:
            await self._drop(keys=keys_of(file_id), args=[floor, FLOOR_S])
        except RedisError as error:
            raise _unavailable(error) from error

    async def _query(self, file_id: str, want: str) -> tuple[RedisEntry, str]:
        if not self._redis.takes_writes:
            raise Unavailable("Redis refuses writes", away=REDIS)
        text, floor, lease = await self._queries.add((file_id, want))
        return RedisEntry(None, int(floor), lease), text

    async def _find_all(self, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, int, str]]:
        keys = [key for file_id, _ in wanted for key in keys_of(file_id)]
        args: list[str | int] = [self._epoch, secrets.token_hex(8), FLOOR_S, *(want for _, want in wanted)]
        try:
            found: list[tuple[str, int, str]] = await self._find(keys=keys, args=args)
        except RedisError as error:
            raise _unavailable(error) from error
        return found


def _unavailable(error: RedisError) -> Unavailable:
    return Unavailable("Redis is unavailable", away=REDIS, reason=type(error).__name__)
