"""Fixtures: real servers for what speaks to servers, and a runtime like that of a service."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from artstore.audit.writer import AuditWriter
from artstore.clock import Clock
from artstore.config import ServiceSettings
from artstore.health import Health
from artstore.limits.limiter import Limiter
from artstore.limits.load import Load
from artstore.metrics import FileMetrics, new_registry
from artstore.runtime import Runtime
from artstore.tasks import Tasks
from artstore.testing.fixtures import postgres, servers_folder, signer, valkey

__all__ = ["postgres", "servers_folder", "signer", "valkey"]


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with Tasks.open() as tasks:
        registry = new_registry()
        limiter = Limiter(Clock(), Load(1, 1000, registry), registry)
        audit = AuditWriter("test", None, Clock(), tasks, registry)
        yield Runtime(
            ServiceSettings(port=1),
            Clock(),
            registry,
            FileMetrics(registry),
            Health(tasks),
            tasks,
            limiter,
            audit,
            print,
        )
