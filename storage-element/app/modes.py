"""The mode an element starts in. artstore.modes has the operations that each mode allows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from artstore.contracts.elements import Mode
from artstore.modes import ROW


@dataclass(frozen=True, slots=True)
class StartMode:
    """The mode to start in. `warning` explains how it differs from the configuration."""

    mode: Mode
    warning: str | None = None


def start_mode(kept: Mode | None, configured: Mode, *, force: bool) -> StartMode:
    """A configured mode further along is used; one further back only with `force`, so that a restart reverts
    nothing."""
    if kept is None or ROW.index(configured) >= ROW.index(kept):
        return StartMode(configured)
    if force:
        return StartMode(configured, f"forced from {kept} back to {configured}")
    return StartMode(kept, f"configured {configured} is further back than {kept}, which stays")
