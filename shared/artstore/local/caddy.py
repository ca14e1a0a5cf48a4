"""Caddy from its wheel, as the gateway of a local system: gateway/Caddyfile with the addresses of the services."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from artstore.local.ports import LOOPBACK

SOURCE = "127.0.0.80"
"""The address that the gateway calls the services from. They believe its X-Forwarded-For, and not that of every program
on the machine. Linux routes all of 127.0.0.0/8 to the loopback device."""

THREADS = max(1, (os.cpu_count() or 1) // 2)
"""The services need the other cores. On two cores one thread takes a quarter less CPU per small request than two; a
GiB takes 0.4 s."""


def command(folder: Path) -> list[str]:
    """`folder`: gateway/ of the source."""
    program = str(Path(sys.executable).parent / "caddy")
    return [program, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def environment(folder: Path, data: Path, port: int, upstreams: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """`folder`: as for `command`. `data`: a folder of its own, for certificates. `upstreams`: the addresses (host:port) of all
    processes of admin, ingester and query."""
    return {
        "PATH": os.defpath,
        "HOME": str(data),
        "GOMAXPROCS": str(THREADS),
        "XDG_DATA_HOME": str(data),
        "XDG_CONFIG_HOME": str(data),
        "GATEWAY_FOLDER": str(folder),
        "GATEWAY_BIND": LOOPBACK,
        "GATEWAY_PORT": str(port),
        "GATEWAY_SOURCE": SOURCE,
        "GATEWAY_UPSTREAMS": "listed",
        **{f"{service.upper()}_UPSTREAMS": " ".join(addresses) for service, addresses in upstreams.items()},
    }
