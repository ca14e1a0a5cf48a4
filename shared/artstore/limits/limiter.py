"""The rate limiter of one process. All processes share their state in Redis, with at most one round trip per
request; busy callers need fewer, because requests are leased in batches. Leases count when they are granted,
so all processes together stay within the limit.

While Redis is unavailable each process continues with the state that it knows, and counts these decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from artstore.clock import Clock
from artstore.groups import Group
from artstore.limits.gcra import REDIS_SCRIPT, Decision, Quota, grant
from artstore.limits.load import Load
from artstore.logs import get_logger
from artstore.tasks import OutageLog

log = get_logger("artstore.limits")

PREFIX = "artstore:{limit}:"
"""One hash tag, because one script takes several callers."""
LEASE_S = 0.5
"""An unused lease is given back after this time, with the next round trip."""
MAX_LEASE = 1024
TRIP_TIMEOUT_S = 0.25
AWAY_S = 1.0
"""Pause after a failed round trip before Redis is asked again."""
MAX_CALLERS = 20_000
"""Callers that a process keeps state of; the oldest entry is dropped first."""
MAX_CALLERS_A_TRIP = 256


@dataclass(slots=True)
class _Caller:
    """The state of one caller. `level_s` was the level at `at_s`, with the lease included."""

    level_s: float = 0.0
    at_s: float = 0.0
    lease: int = 0
    step: int = 1

    def now_level_s(self, now_s: float) -> float:
        return max(0.0, self.level_s - max(0.0, now_s - self.at_s))


@dataclass(frozen=True, slots=True)
class _Ask:
    key: str
    quota: Quota


class Limiter:
    """Decides about requests. It works locally until `connect` is called."""

    def __init__(self, clock: Clock, load: Load, registry: CollectorRegistry) -> None:
        self._clock, self._load = clock, load
        self._callers: dict[str, _Caller] = {}
        self._script: Any = None
        self._away_until_s = float("-inf")
        self._locally = OutageLog(log, "rate limits decided locally")
        self._trips: Group[_Ask, Decision] = Group(self._trip, max_items=MAX_CALLERS_A_TRIP)
        self._decided = Counter(
            "rate_limit_decisions_total",
            "Rate limit decisions, by Redis or, while it is unavailable, locally",
            ["by", "result"],
            registry=registry,
        )

    def connect(self, redis: Redis) -> None:
        self._script = redis.register_script(REDIS_SCRIPT)

    def use_lease(self, key: str, quota: Quota) -> Decision | None:
        """Counts one request against the caller's lease; None without a current one."""
        caller = self._callers.get(key)
        if caller is None or caller.lease <= 0:
            return None
        now_s = self._clock.monotonic_s()
        if now_s - caller.at_s >= LEASE_S:
            return None
        caller.lease -= 1
        return self._decision(True, quota, caller, now_s)

    async def take(self, key: str, quota: Quota) -> Decision:
        """Counts one request of the caller `key`; equal keys share the quota across all processes."""
        return self.use_lease(key, quota) or await self._trips.add(_Ask(key, quota))

    async def _trip(self, asks: list[_Ask]) -> Sequence[Decision]:
        """Decides about all requests that arrived during the last round trip; several may be of one caller."""
        now_s = self._clock.monotonic_s()
        waiting: dict[str, list[int]] = {}
        for index, ask in enumerate(asks):
            waiting.setdefault(ask.key, []).append(index)
        callers = {key: self._caller(key) for key in waiting}
        quotas = {key: asks[indices[0]].quota for key, indices in waiting.items()}
        grants = await self._ask_redis(waiting, callers, quotas, now_s)
        if grants is None:
            grants = self._decide_here(waiting, callers, quotas, now_s)
        decisions: list[Decision | None] = [None] * len(asks)
        for key, indices in waiting.items():
            caller, granted = callers[key], grants[key]
            caller.lease = max(0, granted - len(indices))
            for place, index in enumerate(indices):
                decisions[index] = self._decision(place < granted, quotas[key], caller, now_s)
        return [decision for decision in decisions if decision is not None]

    async def _ask_redis(
        self, waiting: dict[str, list[int]], callers: dict[str, _Caller], quotas: dict[str, Quota], now_s: float
    ) -> dict[str, int] | None:
        """Granted requests by key; None if Redis is unavailable."""
        if self._script is None or now_s < self._away_until_s:
            return None
        arguments: list[str] = []
        for key, caller in callers.items():
            quota, cost_s = quotas[key], quotas[key].cost_s / self._load.factor
            fresh = now_s - caller.at_s < LEASE_S
            caller.step = min(MAX_LEASE, caller.step * 2) if fresh else 1
            back_s, caller.lease = caller.lease * cost_s, 0
            times = (cost_s, quota.tolerance_s, quota.penalty_s)
            counts = (len(waiting[key]), len(waiting[key]) + caller.step - 1)
            arguments += [f"{time_s * 1e6:.3f}" for time_s in times] + [str(count) for count in counts]
            arguments.append(f"{back_s * 1e6:.3f}")
        try:
            async with asyncio.timeout(TRIP_TIMEOUT_S):
                answer = await self._script(keys=[PREFIX + key for key in callers], args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            self._away_until_s = now_s + AWAY_S
            self._locally.failed(type(error).__name__)
            return None
        self._locally.succeeded()
        now_s = self._clock.monotonic_s()
        for index, caller in enumerate(callers.values()):
            caller.level_s, caller.at_s = answer[2 * index + 1] / 1e6, now_s
        grants = {key: int(answer[2 * index]) for index, key in enumerate(callers)}
        self._count("redis", waiting, grants)
        return grants

    def _decide_here(
        self, waiting: dict[str, list[int]], callers: dict[str, _Caller], quotas: dict[str, Quota], now_s: float
    ) -> dict[str, int]:
        grants: dict[str, int] = {}
        for key, caller in callers.items():
            need = len(waiting[key])
            grants[key], caller.level_s = grant(
                quotas[key], self._load.factor, caller.now_level_s(now_s), need=need, want=need
            )
            caller.at_s = now_s
        self._count("local", waiting, grants)
        return grants

    def _count(self, by: str, waiting: dict[str, list[int]], grants: dict[str, int]) -> None:
        for key, indices in waiting.items():
            granted = min(len(indices), grants[key])
            self._decided.labels(by, "let_through").inc(granted)
            self._decided.labels(by, "refused").inc(len(indices) - granted)

    def _decision(self, allowed: bool, quota: Quota, caller: _Caller, now_s: float) -> Decision:
        factor = self._load.factor
        level_s = caller.now_level_s(now_s) - caller.lease * quota.cost_s / factor
        return Decision(allowed, quota, factor, max(0.0, level_s))

    def _caller(self, key: str) -> _Caller:
        caller = self._callers.get(key)
        if caller is None:
            if len(self._callers) >= MAX_CALLERS:
                del self._callers[next(iter(self._callers))]
            caller = self._callers[key] = _Caller()
        return caller
