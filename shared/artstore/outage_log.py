"""Logs an outage instead of each failure: a warning when it begins or its reason changes, an info line when
it ends."""

from __future__ import annotations

import time
from typing import Any

NEW_AFTER_S = 120.0
"""A failure this long after the last one begins a new outage, because work that runs for hours does not
report success meanwhile."""


class OutageLog:
    """`event` is the log event of a failure. Repetitions are logged at debug level."""

    def __init__(self, log: Any, event: str) -> None:
        self._log, self._event, self._failures, self._reason = log, event, 0, ""
        self._failed_s = float("-inf")

    def failed(self, reason: str, **fields: Any) -> None:
        """Reports a failure; `fields` become fields of the log event."""
        now_s = time.monotonic()
        if now_s - self._failed_s > NEW_AFTER_S:
            self._failures = 0
        self._failures += 1
        write = self._log.debug if self._failures > 1 and reason == self._reason else self._log.warning
        self._failed_s, self._reason = now_s, reason
        write(self._event, error=reason, failures=self._failures, **fields)

    def succeeded(self, **fields: Any) -> None:
        """Reports a success, which ends the outage if there is one."""
        if self._failures:
            self._log.info(f"{self._event}: over", failures=self._failures, **fields)
            self._failures, self._reason = 0, ""
