"""The logs of the processes: every error in them was unforeseen."""

from __future__ import annotations

import json
from typing import Any

from support.fleet import Fleet

SHOWN = 300


def logged_errors(fleet: Fleet) -> list[str]:
    """Lines of level error, and lines in no log format: a traceback, a warning of Python's."""
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
    """True for the server's line about a request that a hanging dependency held beyond the time for a shutdown."""
    cancelled = "CancelledError" in str(told.get("exception", "")).rstrip().rpartition("\n")[2]
    return "timeout graceful shutdown exceeded" in told["event"] or (cancelled and "ASGI" in told["event"])
