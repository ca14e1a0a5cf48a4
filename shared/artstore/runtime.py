"""What every service has before its own context is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from artstore.audit.writer import AuditWriter
from artstore.clock import Clock
from artstore.config import ServiceSettings
from artstore.errors import StartRefused
from artstore.health import Health
from artstore.limits.limiter import Limiter
from artstore.metrics import FileMetrics
from artstore.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Runtime:
    """What every service has before its own context is opened."""

    settings: ServiceSettings
    clock: Clock
    registry: CollectorRegistry
    files: FileMetrics
    health: Health
    tasks: Tasks
    limiter: Limiter
    audit: AuditWriter
    refuse: Callable[[StartRefused], None]
    """Ends a start that is refused after the port was opened: one line in the log, and status 3."""
