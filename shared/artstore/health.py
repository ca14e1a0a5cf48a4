"""Readiness that answers at once: background loops ask, the endpoint only reads what they found."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from artstore.tasks import Tasks

NOT_YET = "not checked yet"
NOT_OK_EVERY_S = 0.25
"""A part that is away is asked more often, so that a start or a return is seen at once."""


@dataclass(slots=True)
class _Check:
    required: bool
    ok: bool = False
    detail: str = NOT_YET


@dataclass(slots=True)
class Health:
    """The checks of one service. Ready when every required one is ok."""

    tasks: Tasks
    _checks: dict[str, _Check] = field(default_factory=dict)

    def add(
        self,
        name: str,
        check: Callable[[], Awaitable[object]],
        *,
        required: bool = True,
        every_s: float = 2.0,
        timeout_s: float = 2.0,
    ) -> None:
        """`check` raises when it is not well; what it raises is the detail shown."""
        entry = self._checks[name] = _Check(required=required)
        self.tasks.start(f"health:{name}", self._watch(entry, check, every_s, timeout_s))

    async def _watch(
        self, entry: _Check, check: Callable[[], Awaitable[object]], every_s: float, timeout_s: float
    ) -> None:
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    await check()
            except Exception as error:  # any failure is the answer
                entry.ok, entry.detail = False, (str(error) or type(error).__name__).splitlines()[0][:200]
            else:
                entry.ok, entry.detail = True, "ok"
            await asyncio.sleep(every_s if entry.ok else min(every_s, NOT_OK_EVERY_S))

    @property
    def ready(self) -> bool:
        return all(check.ok for check in self._checks.values() if check.required)

    def report(self) -> dict[str, Any]:
        """{"status": "ready"|"not_ready", "checks": {name: {"ok", "required", "detail"}}}"""
        return {
            "status": "ready" if self.ready else "not_ready",
            "checks": {
                name: {"ok": check.ok, "required": check.required, "detail": check.detail}
                for name, check in self._checks.items()
            },
        }
