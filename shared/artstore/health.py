"""Health checks run in background loops; /health/ready returns their latest results immediately."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from artstore.errors import ArtStoreError
from artstore.logs import get_logger
from artstore.tasks import Tasks, describe, until_tick, wait_or_timeout

log = get_logger("artstore.health")

NOT_YET = "not checked yet"
NOT_OK_EVERY_S = 0.25
"""Interval of a failing check: short, so that a start or a recovery is noticed quickly."""


@dataclass(slots=True)
class _Check:
    required: bool
    ok: bool = False
    detail: str = NOT_YET
    logged: str = ""
    """The failure that was logged last."""


@dataclass(slots=True)
class Health:
    """The checks of one service, which is ready if every required check passes."""

    tasks: Tasks
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the service stops: it is not ready, whatever the checks say, and no request may wait for news."""
    _checks: dict[str, _Check] = field(default_factory=dict)
    _checked: asyncio.Event = field(default_factory=asyncio.Event)

    def add(
        self,
        name: str,
        check: Callable[[], Awaitable[object]],
        *,
        required: bool = True,
        every_s: float = 2.0,
        timeout_s: float = 2.0,
    ) -> None:
        """Adds a check, which runs every `every_s`. It fails by raising an exception, whose text is shown if
        the exception is one of ours; a text that it returns is shown as well."""
        entry = self._checks[name] = _Check(required=required)
        self.tasks.forever(f"health:{name}", partial(self._run, name, entry, check, every_s, timeout_s), pause_s=0.0)

    @property
    def ready(self) -> bool:
        return not self.stopping.is_set() and all(check.ok for check in self._checks.values() if check.required)

    async def wait_until_ready(self, at_most_s: float) -> None:
        """Returns at the latest after `at_most_s`."""
        deadline_s = time.monotonic() + at_most_s
        while not self.ready and (left_s := deadline_s - time.monotonic()) > 0:
            self._checked.clear()
            await wait_or_timeout(self._checked, left_s)

    def failing(self) -> tuple[str, ...]:
        """Names of the checks, required or not, whose last run failed. Checks that have not run yet are not
        included."""
        return tuple(name for name, check in self._checks.items() if not check.ok and check.detail != NOT_YET)

    def report(self) -> dict[str, Any]:
        """Returns {"status": "ready"|"not_ready", "checks": {name: {"ok", "required", "detail"}}}."""
        checks: dict[str, Any] = {
            name: {"ok": check.ok, "required": check.required, "detail": check.detail}
            for name, check in self._checks.items()
        }
        if self.stopping.is_set():
            checks["stop"] = {"ok": False, "required": True, "detail": "the service is stopping"}
        return {"status": "ready" if self.ready else "not_ready", "checks": checks}

    async def _run(
        self, name: str, entry: _Check, check: Callable[[], Awaitable[object]], every_s: float, timeout_s: float
    ) -> None:
        """Runs the check once, then waits."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await check()
        except Exception as error:  # every exception is a result
            entry.ok, entry.detail = False, _shown(error)
            if entry.detail != entry.logged:
                entry.logged = entry.detail
                log.warning("check failed", check=name, error=describe(error))
        else:
            if entry.logged:
                log.info("check passes again", check=name)
            entry.logged = ""
            entry.ok, entry.detail = True, answer if isinstance(answer, str) else "ok"
        self._checked.set()
        await asyncio.sleep(until_tick(every_s) if entry.ok else min(every_s, NOT_OK_EVERY_S))


def _shown(error: Exception) -> str:
    """The text for /health/ready, which is public: texts of libraries may contain addresses, users and
    statements, so only their type is shown."""
    own = isinstance(error, ArtStoreError) or type(error) is ConnectionError
    if own and str(error):
        return str(error).splitlines()[0][:200]
    return "timed out" if isinstance(error, TimeoutError) else f"failed: {type(error).__name__}"
