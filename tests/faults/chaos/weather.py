"""Carries the strikes out, ends each of them, and remembers when which was in force: what excuses an answer that is not given."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from support.fleet import Fleet, answers, eventually

from artstore.testing.network import CLEAR, Proxy, Way
from artstore.testing.services import frozen

from .schedule import EDGES, Kind, Strike

AFTERMATH_S = 4.0
"""A struck part disturbs its callers for at most this long after it answers, or passes bytes, again."""
START_PATIENCE_S = 240.0
LOOK_EVERY_S = 0.05
STARTING = frozenset({Kind.KILL, Kind.RESTART, Kind.SKEW, Kind.POINT})
"""These last until the process that was started answers."""


@dataclass(slots=True)
class Struck:
    """`ended_s` is None while it lasts."""

    strike: Strike
    began_s: float
    ended_s: float | None = None


@dataclass(slots=True)
class Weather:
    """Times are seconds since the run began."""

    fleet: Fleet
    began_s: float = field(default_factory=time.monotonic)
    log: list[Struck] = field(default_factory=list)
    reached: Counter[str] = field(default_factory=Counter)
    """Points at which a process died."""
    died: list[str] = field(default_factory=list)
    """Processes that were found dead without a kill."""

    _held: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """On a slow machine a process may still be starting when the schedule strikes it again: then that waits."""

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began_s

    async def run(self, strikes: Iterable[Strike]) -> None:
        async with asyncio.TaskGroup() as group:
            for strike in strikes:
                group.create_task(self._strike(strike))

    def struck(
        self, since_s: float, until_s: float, *, targets: Iterable[str] = (), kinds: Iterable[Kind] = (),
        aftermath_s: float = AFTERMATH_S,
    ) -> list[Strike]:  # fmt: skip
        """Strikes of these kinds, or on these targets (a process without an edge means any of it), in force meanwhile."""
        wanted, of_kind = set(targets), set(kinds)
        return [
            struck.strike
            for struck in self.log
            if (struck.strike.target in wanted or struck.strike.process in wanted or struck.strike.kind in of_kind)
            and struck.began_s <= until_s
            and (struck.ended_s is None or struck.ended_s + aftermath_s >= since_s)
        ]

    def dead(self) -> list[str]:
        """Processes that ended without a strike."""
        gone = {
            name: process.returncode for name, process in self.fleet.processes.items() if process.poll() is not None
        }
        return [*self.died, *(f"{name} has ended by itself with {code}" for name, code in gone.items())]

    async def _strike(self, strike: Strike) -> None:
        await asyncio.sleep(max(0.0, strike.at_s - self.now_s))
        async with self._held[strike.target]:
            await self._carry_out(strike)

    async def _carry_out(self, strike: Strike) -> None:
        struck = Struck(strike, self.now_s)
        self.log.append(struck)
        async with AsyncExitStack() as ending:
            if strike.kind in EDGES:
                self._edge(strike, ending)
            else:
                await self._process_or_server(strike, ending)
            await asyncio.sleep(0.0 if strike.kind is Kind.POINT else strike.lasts_s)
        if strike.kind in STARTING:
            alive = partial(answers, f"{self.fleet.url(strike.target)}/health/live")
            await asyncio.to_thread(eventually, alive, START_PATIENCE_S)
        struck.ended_s = self.now_s

    def _edge(self, strike: Strike, ending: AsyncExitStack) -> None:
        assert self.fleet.wiring is not None
        proxy: Proxy = self.fleet.wiring.proxies[strike.process, strike.edge]
        ending.callback(proxy.heal)
        match strike.kind:
            case Kind.DELAY:
                way = Way(delay_s=float(strike.how))
                proxy.fault(up=way, down=way)
            case Kind.SLICE:
                way = Way(slice_bytes=int(strike.how))
                proxy.fault(up=way, down=way)
            case Kind.BLACKHOLE:
                hole = Way(blackhole=True)
                proxy.fault(up=CLEAR if strike.how == "down" else hole, down=CLEAR if strike.how == "up" else hole)
            case Kind.RESET:
                proxy.reset()
            case _:
                proxy.fault(refuse=True)

    async def _process_or_server(self, strike: Strike, ending: AsyncExitStack) -> None:
        fleet, name = self.fleet, strike.target
        match strike.kind:
            case Kind.PAUSE:
                fleet.processes[name].send_signal(signal.SIGSTOP)
                ending.callback(fleet.processes[name].send_signal, signal.SIGCONT)
            case Kind.KILL:
                await self._stop(name, signal.SIGKILL)
                ending.callback(fleet.start, name)
            case Kind.RESTART:
                await self._stop(name)
                fleet.start(name)
            case Kind.SKEW:
                await self._stop(name)
                fleet.start(name, skew_s=float(strike.how))
                ending.push_async_callback(self._set_right, name)
            case Kind.POINT:
                await self._until_its_point(name, strike)
            case Kind.HANG:
                server = fleet.valkey.process if name == "redis" else fleet.postgres.process
                ending.enter_context(frozen(server.pid))
            case Kind.FLUSH:
                await asyncio.to_thread(fleet.valkey.flush)
            case Kind.REDIS:
                await asyncio.to_thread(fleet.valkey.stop)
                ending.push_async_callback(asyncio.to_thread, fleet.start_valkey)
            case _:
                await asyncio.to_thread(fleet.postgres.discard)
                ending.push_async_callback(asyncio.to_thread, fleet.start_postgres)

    async def _until_its_point(self, name: str, strike: Strike) -> None:
        await self._stop(name)
        self.fleet.start(name, {"ARTSTORE_POINT": strike.how})
        process = self.fleet.processes[name]
        until_s = self.now_s + START_PATIENCE_S
        alive = False
        while process.poll() is None and self.now_s < until_s:
            if not alive and await asyncio.to_thread(answers, f"{self.fleet.url(name)}/health/live"):
                alive, until_s = True, self.now_s + strike.lasts_s
            await asyncio.sleep(LOOK_EVERY_S)
        if process.poll() == -signal.SIGKILL:
            self.reached[strike.how.partition(":")[0]] += 1
            await asyncio.to_thread(process.wait)
            self.fleet.processes.pop(name)
        else:
            await self._stop(name)
        self.fleet.start(name)

    async def _set_right(self, name: str) -> None:
        await self._stop(name)
        self.fleet.start(name)

    async def _stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        if self.fleet.processes[name].poll() is not None:
            self.died.append(f"{name} had ended by itself with {self.fleet.processes[name].returncode}")
        await asyncio.to_thread(self.fleet.stop, name, how)
