"""A proxy in front of the system that fails on purpose: it cuts connections, damages bytes, and answers by itself."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from support.system import System

CHUNK = 64 * 1024
LINGER_S = 0.5
"""After an early answer, as the gateway: a connection that is closed with unread bytes may lose the answer."""


@dataclass
class Fault:
    """A fault of the next `times` requests whose `METHOD /path` matches the pattern."""

    pattern: str
    times: int = 1
    answer: bytes = b""
    """Sent instead of the service's answer, when the request was read."""
    early: bool = False
    """It is sent when only the head of the request was read."""
    request_cut: int | None = None
    """The connection breaks after so many bytes of the request's content."""
    answer_cut: int | None = None
    """The same of the answer, its head included; 0: the service has answered, and the client never hears of it."""
    damage: int | None = None
    """The byte of the answer's content that is changed."""
    rewrite: Callable[[bytes], bytes] | None = None
    """Changes the head of the answer."""


@dataclass(frozen=True)
class Seen:
    call: str
    headers: dict[str, str]


@dataclass
class FaultyProxy:
    system: System
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def calls(self, pattern: str) -> list[Seen]:
        return [one for one in self.seen if re.match(pattern, one.call)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, then the connection is closed."""
        upstream: asyncio.StreamWriter | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            call, headers = _parse(head)
            self.seen.append(Seen(call, headers))
            fault = self._fault_of(call)
            if fault.answer:
                if not fault.early:
                    await _drain(reader, headers)
                writer.write(fault.answer)
                await writer.drain()
                await asyncio.sleep(LINGER_S if fault.early else 0)
                return
            source, upstream = await asyncio.open_connection("127.0.0.1", httpx.URL(self.system.address).port)
            upstream.write(re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)[:-2] + b"connection: close\r\n\r\n")
            sending = asyncio.create_task(_send(reader, upstream, fault.request_cut))
            receiving = asyncio.create_task(_receive(source, writer, fault))
            try:
                await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_COMPLETED)
                if sending.done() and not sending.exception() and sending.result() == "cut":
                    return
                await receiving
            finally:
                for task in (sending, receiving):
                    task.cancel()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, upstream):
                if one is not None:
                    one.close()

    def _fault_of(self, call: str) -> Fault:
        for fault in self.faults:
            if fault.times > 0 and re.match(fault.pattern, call):
                fault.times -= 1
                return fault
        return Fault("")


def problem(status: int, code: str, **headers: str) -> bytes:
    """The answer of a service that refuses."""
    body = json.dumps({"status": status, "code": code, "detail": "on purpose", "request_id": "r1"}).encode()
    fields = {"content-type": "application/problem+json", "content-length": str(len(body)), "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} Refused", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def faulty_proxy(system: System, tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultyProxy]:
    proxy = FaultyProxy(system)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    proxy.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield proxy
    finally:
        server.close()


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split(" ")
    named = (line.partition(":") for line in lines)
    return f"{method} {target.partition('?')[0]}", {name.lower(): value.strip() for name, _, value in named}


async def _drain(reader: asyncio.StreamReader, headers: dict[str, str]) -> None:
    if "transfer-encoding" in headers:
        await reader.readuntil(b"\r\n0\r\n\r\n")
    left = int(headers.get("content-length", "0"))
    while left > 0 and (chunk := await reader.read(CHUNK)):
        left -= len(chunk)


async def _send(reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, cut: int | None) -> str:
    sent = 0
    while chunk := await reader.read(CHUNK):
        if cut is not None and sent + len(chunk) > cut:
            upstream.write(chunk[: cut - sent])
            await upstream.drain()
            return "cut"
        sent += len(chunk)
        upstream.write(chunk)
        await upstream.drain()
    return "ended"


async def _receive(source: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
    head = await source.readuntil(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 1"):
        head = await source.readuntil(b"\r\n\r\n")
    if fault.rewrite:
        head = fault.rewrite(head)
    left = fault.answer_cut
    at = -len(head)
    chunk = head
    while chunk:
        if fault.damage is not None and at <= fault.damage < at + len(chunk):
            changed = bytearray(chunk)
            changed[fault.damage - at] ^= 1
            chunk = bytes(changed)
        at += len(chunk)
        if left is not None:
            chunk, left = chunk[:left], left - len(chunk)
        writer.write(chunk)
        await writer.drain()
        if left is not None and left <= 0:
            return
        chunk = await source.read(CHUNK)
