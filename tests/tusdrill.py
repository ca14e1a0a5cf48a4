"""Uploads a file through a proxy that cuts the connection at random moments, with official tus clients: python -m tusdrill.

`--size 1G --cuts 50 --seed 1`. Starts a system of its own. A client passes when the file that query gives back has the hash
of the file that was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import secrets
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from support.system import System, own_system

JS_CLIENT = "tus-js-client@4.3.1"
CHUNK_BYTES = 64 << 10
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 s: the close sends RST instead of FIN."""
TIMEOUT_S = 1800
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class ClientMissing(Exception):
    """The client cannot be installed here."""


@dataclass(frozen=True)
class Drill:
    """One upload: the account's token, the file, and where the cuts are, in bytes that the client has sent."""

    system: System
    token: str
    file: Path
    cuts: list[int]


class CuttingProxy:
    """Leads to a service. As soon as clients have sent so many bytes in all, the connection that sent the last one is cut."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._target, self._cuts = port, sorted(cuts, reverse=True)
        self._sent = 0
        self.made = 0
        self._open_ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @contextmanager
    def running(self) -> Iterator[CuttingProxy]:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(server), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    async def _close(self, server: asyncio.Server) -> None:
        server.close()
        for writer in self._open_ends:
            writer.transport.abort()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest:
            await asyncio.wait(rest)

    async def _open(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, sock=self._socket, limit=CHUNK_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_target, to_target = await asyncio.open_connection("127.0.0.1", self._target, limit=CHUNK_BYTES)
        ways = [
            asyncio.create_task(self._up(reader, to_target)),
            asyncio.create_task(self._down(from_target, writer)),
        ]
        self._open_ends |= {writer, to_target}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            for end in (writer, to_target):
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.close()
                self._open_ends.discard(end)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ends at a cut."""
        while chunk := await reader.read(CHUNK_BYTES):
            end = self._sent + len(chunk)
            if self._cuts and self._cuts[-1] < end:
                chunk = chunk[: self._cuts.pop() - self._sent]
                self.made += 1
                writer.write(chunk)
                self._sent = end
                return
            self._sent = end
            writer.write(chunk)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


def with_tuspy(endpoint: str, drill: Drill) -> str:
    """The file's id. The client holds a chunk in memory, so it sends several."""
    from tusclient.client import TusClient

    client = TusClient(endpoint, headers={"Authorization": f"Bearer {drill.token}"})
    uploader = client.uploader(
        str(drill.file),
        chunk_size=max(1 << 20, drill.file.stat().st_size // 16),
        retries=1000,
        retry_delay=0,
        metadata={"filename": "drill.bin", "tags": '["tuspy"]'},
    )
    uploader.upload()
    assert uploader.request is not None
    return str(uploader.request.response_headers["x-artstore-file-id"])


def with_tus_js_client(endpoint: str, drill: Drill) -> str:
    """The file's id. The client is installed into a temporary folder. Raises ClientMissing."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise ClientMissing("node or npm is missing")
    with tempfile.TemporaryDirectory(prefix="artstore-tus-") as folder:
        install = ["npm", "install", "--no-audit", "--no-fund", "--silent", JS_CLIENT]
        installed = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=120)
        if installed.returncode != 0:
            raise ClientMissing(f"{JS_CLIENT} cannot be installed: {installed.stderr.strip()[:200]}")
        script = shutil.copy(Path(__file__).parent / "support" / "tus_upload.mjs", folder)
        done = subprocess.run(
            ["node", script, endpoint, str(drill.file)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={"PATH": os.environ["PATH"], "TOKEN": drill.token},
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CLIENTS: dict[str, Callable[[str, Drill], str]] = {"tuspy": with_tuspy, "tus-js-client": with_tus_js_client}


def run(drill: Drill, client: str) -> str:
    """Describes what was seen. Raises AssertionError, ClientMissing."""
    ingester = int(drill.system.url("ingester").rpartition(":")[2])
    began_s = time.monotonic()
    with CuttingProxy(ingester, drill.cuts).running() as proxy:
        file_id = CLIENTS[client](f"http://127.0.0.1:{proxy.port}/api/uploads", drill)
        took_s, made = time.monotonic() - began_s, proxy.made
    assert made == len(drill.cuts), f"only {made} cuts were made"
    with drill.file.open("rb") as file:
        sent = hashlib.file_digest(file, "sha256").hexdigest()
    received = hashlib.sha256()
    headers = {"authorization": f"Bearer {drill.token}"}
    url = f"{drill.system.url('query')}/api/files/{file_id}/content"
    with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as answer:
        answer.raise_for_status()
        for piece in answer.iter_raw():
            received.update(piece)
    assert received.hexdigest() == sent, "the file has other bytes"
    return f"{client}: {drill.file.stat().st_size} bytes, {made} cuts, {took_s:.1f} s, the same SHA-256"


def new_token(system: System) -> str:
    """The token of a new account whose rate limit does not count: each cut costs requests."""
    wanted = {"client_id": f"drill-{secrets.token_hex(4)}", "role": "USER", "rate_per_minute": 1_000_000}
    with system.client() as client:
        made = client.post(f"{system.url('admin')}/api/service-accounts", json=wanted)
    made.raise_for_status()
    return system.token(made.json()["client_id"], made.json()["client_secret"])


def new_drill(system: System, folder: Path, size_bytes: int, cuts: int, seed: int) -> Drill:
    file = folder / "drill.bin"
    with file.open("wb") as out:
        for start in range(0, size_bytes, 1 << 20):
            out.write(os.urandom(min(1 << 20, size_bytes - start)))
    chosen = random.Random(seed).sample(range(2000, size_bytes), cuts)
    return Drill(system, new_token(system), file, chosen)


def parse_size(text: str) -> int:
    unit = UNITS.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tusdrill", description=__doc__)
    parser.add_argument("--size", type=parse_size, default="1G")
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--client", choices=CLIENTS, action="append")
    asked = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if asked.seed is None else asked.seed
    print("seed", seed, flush=True)
    with own_system() as system, tempfile.TemporaryDirectory(prefix="artstore-drill-") as folder:
        for client in asked.client or CLIENTS:
            print(run(new_drill(system, Path(folder), asked.size, asked.cuts, seed), client), flush=True)


if __name__ == "__main__":
    main()
