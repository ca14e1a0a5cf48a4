"""Requests as bytes over a socket of their own: nothing that a client library would correct."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .system import OFFSETS, System

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """`status` is 0 when none came. Interim answers (100) are counted in `interim`."""

    status: int
    headers: dict[str, str]
    body: bytes
    interim: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    method: str, path: str, token: str | None, fields: Iterable[str] = (), content: bytes = b"", version: str = "1.1"
) -> tuple[bytes, bytes]:
    """Head and content. The last connection header of `fields` counts; without one the server is asked to close."""
    lines = [f"{method} {path} HTTP/{version}", "host: a", *fields]
    if token is not None:
        lines.append(f"authorization: Bearer {token}")
    if not any(field.lower().startswith("connection:") for field in fields):
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode(), content


def exchange(
    system: System, service: str, *pieces: bytes, half_close: bool = False, gap_s: float = 0.05
) -> list[Answer]:
    """All answers until the server closes."""
    came = b""
    with socket.create_connection(("127.0.0.1", system.base + OFFSETS[service]), timeout=TIMEOUT_S) as connection:
        try:
            for number, piece in enumerate(pieces):
                if number:
                    time.sleep(gap_s)
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                came += piece
        except ConnectionError:
            pass
    return parse(came)


def parse(came: bytes) -> list[Answer]:
    answers: list[Answer] = []
    interim = 0
    while came:
        head, _, rest = came.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        if status < 200:
            interim, came = interim + 1, rest
            continue
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = 0 if status in (204, 304) else int(headers.get("content-length", len(rest)))
        answers.append(Answer(status, headers, rest[:length], interim))
        came, interim = rest[length:], 0
    return answers
