"""The parts that every service has, opened before its own context."""

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
    """The common parts of a service, given to its `open_context`."""

    settings: ServiceSettings
    clock: Clock
    registry: CollectorRegistry
    files: FileMetrics
    health: Health
    tasks: Tasks
    limiter: Limiter
    audit: AuditWriter
    refuse: Callable[[StartRefused], None]
    """Ends the process after the port was opened: logs the reason in one line and exits with status 3."""
