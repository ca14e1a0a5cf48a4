"""One warning when something begins to fail, one when its reason changes, and one line when it works again."""

from __future__ import annotations

import time
from typing import Any

NEW_AFTER_S = 120.0
"""A failure this long after the last one is a new outage: work that runs for hours does not say when it began to succeed."""


class OutageLog:
    """`event` names the failure. Repetitions are logged at debug: an outage of an hour is not a line every second."""

    def __init__(self, log: Any, event: str) -> None:
        self._log, self._event, self._failures, self._reason = log, event, 0, ""
        self._failed_s = float("-inf")

    def failed(self, reason: str, **fields: Any) -> None:
        now_s = time.monotonic()
        if now_s - self._failed_s > NEW_AFTER_S:
            self._failures = 0
        self._failures += 1
        write = self._log.debug if self._failures > 1 and reason == self._reason else self._log.warning
        self._failed_s, self._reason = now_s, reason
        write(self._event, error=reason, failures=self._failures, **fields)

    def passed(self, **fields: Any) -> None:
        if self._failures:
            self._log.info(f"{self._event}: over", failures=self._failures, **fields)
            self._failures, self._reason = 0, ""
