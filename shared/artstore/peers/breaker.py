"""Circuit breakers around every call to another process, over the `circuitbreaker` library.

The library lets every call through in the half-open state; here one probe is sent and the other calls are
refused until it returns.
"""

from __future__ import annotations

import asyncio

from circuitbreaker import CircuitBreaker
from prometheus_client import CollectorRegistry, Gauge

from artstore.errors import RETRY_AFTER_S, Unavailable

FAILURES = 5
OPEN_S = 60


class Breaker:
    """The breaker of one edge, the connection to one other process: closed, open (refuses every call),
    half-open (one probe)."""

    def __init__(
        self,
        edge: str,
        failures: tuple[type[BaseException], ...],
        *,
        limit: int,
        open_s: float,
        silent: tuple[type[BaseException], ...] = (),
        named: str | None = None,
    ) -> None:
        self.edge = edge
        self._failures = failures
        self._silent: tuple[type[BaseException], ...] = (asyncio.CancelledError, *silent)
        self._named = named or edge
        self._circuit = CircuitBreaker(
            failure_threshold=limit, recovery_timeout=open_s, expected_exception=list(failures), name=edge
        )
        self._probing = False

    @property
    def closed(self) -> bool:
        return bool(self._circuit.closed)

    @property
    def refuses(self) -> bool:
        """True if a call now would be refused without being tried."""
        return bool(self._circuit.opened) or (self._half_open and self._probing)

    @property
    def _half_open(self) -> bool:
        return bool(self._circuit.state == "half_open")

    @property
    def retry_after_s(self) -> int:
        """At most RETRY_AFTER_S, because a readiness probe closes the breaker as soon as the other side has
        recovered."""
        return min(RETRY_AFTER_S, max(1, int(self._circuit.open_remaining) + 1))

    @property
    def state_number(self) -> int:
        return 0 if self._circuit.closed else 1 if self._half_open else 2

    def guard(self) -> _Guard:
        """For the block of one call: `async with breaker.guard()`. Raises Unavailable without a call while open. Only
        exceptions of the `failures` classes count."""
        return _Guard(self)

    def begin(self) -> bool:
        """Returns True if the call is the probe of the half-open state. Raises Unavailable."""
        if self._circuit.closed:
            return False
        if self.refuses:
            raise Unavailable(f"{self.edge} is unavailable", retry_after_s=self.retry_after_s, away=self._named)
        probe = self._half_open
        self._probing = self._probing or probe
        return probe

    def end(self, probe: bool, failure: BaseException | None) -> None:
        if isinstance(failure, self._failures):
            self.count(failure)
        elif not isinstance(failure, self._silent):  # cancelled or given up: this says nothing about the other side
            self._circuit.reset()  # the other side answered, perhaps with an error
        if probe:
            self._probing = False

    def count(self, failure: BaseException) -> None:
        """Counts a failure that `guard` did not see as one of `failures`, for instance because a timeout of
        the caller ended the call."""
        self._circuit.__exit__(type(failure), failure, failure.__traceback__)

    def trip(self, failure: BaseException) -> None:
        """Opens the breaker, or restarts its open period: a check has just failed."""
        self.count(failure)
        while not self._circuit.opened:
            self.count(failure)

    def heal(self) -> None:
        """Closes the breaker: a check has just succeeded."""
        self._circuit.reset()


class _Guard:
    """A class instead of a generator, because it surrounds every call."""

    __slots__ = ("_breaker", "_probe")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker, self._probe = breaker, False

    async def __aenter__(self) -> None:
        self._probe = self._breaker.begin()

    async def __aexit__(self, _kind: object, failure: BaseException | None, _trace: object) -> None:
        self._breaker.end(self._probe, failure)


class Breakers:
    """All breakers of a process, one per edge, created on first use. Their state is a metric."""

    def __init__(self, registry: CollectorRegistry, *, limit: int = FAILURES, open_s: float = OPEN_S) -> None:
        self._by_edge: dict[str, Breaker] = {}
        self._limit, self._open_s = limit, open_s
        self._state = Gauge("circuit_breaker_state", "0 closed, 1 half-open, 2 open", ["edge"], registry=registry)

    def to(
        self,
        edge: str,
        failures: tuple[type[BaseException], ...],
        *,
        silent: tuple[type[BaseException], ...] = (),
        named: str | None = None,
    ) -> Breaker:
        """The breaker of an edge. Exceptions of `failures` count; those of `silent` neither count nor end a
        series of failures. `named` is the value of `away` in the errors that it raises."""
        breaker = self._by_edge.get(edge)
        if breaker is None:
            breaker = self._by_edge[edge] = Breaker(
                edge, failures, limit=self._limit, open_s=self._open_s, silent=silent, named=named
            )
            self._state.labels(edge).set_function(lambda: breaker.state_number)
        return breaker

    def forget(self, edge: str) -> None:
        """Removes the breaker and its metric series, for a peer that no longer exists."""
        if self._by_edge.pop(edge, None) is not None:
            self._state.remove(edge)
