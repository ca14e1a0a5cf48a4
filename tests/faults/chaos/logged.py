"""What the processes said of themselves: an error in a log is one that nobody foresaw."""

from __future__ import annotations

import json
from typing import Any

from support.fleet import Fleet

SHOWN = 300


def logged_errors(fleet: Fleet) -> list[str]:
    """Lines of level error, and what is no line of ours: a traceback, a warning of Python's."""
    found = []
    for name in fleet.names:
        for line in (fleet.folder / f"{name}.log").read_text(errors="replace").splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                found.append(f"{name} wrote: {line[:SHOWN]}")
                continue
            if told["level"] in ("error", "critical") and not _is_cut_off(told):
                found.append(f"{name} logged an error: {told['event']}: {str(told.get('error'))[:SHOWN]}")
    return found


def _is_cut_off(told: dict[str, Any]) -> bool:
    """Of the server: a request was not done when the time for a shutdown was over, since whom it waited for hung."""
    cancelled = "CancelledError" in str(told.get("exception", "")).rstrip().rpartition("\n")[2]
    return "timeout graceful shutdown exceeded" in told["event"] or (cancelled and "ASGI" in told["event"])
