#!/usr/bin/env python3
"""Tokens a second of one admin: `PYTHONPATH=../shared python bench/tokens.py [seconds] [concurrency]`, in the module's folder.

Prints what was reached and what one token costs of a core: the second does not depend on what else the machine does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from artstore.testing.services import free_port, start_postgres, start_valkey, temporary_folder

MODULE = Path(__file__).resolve().parents[1]
CLIENT = {"client_id": "bench", "client_secret": "b" * 43}
PLENTY = "100000000"


def environment(folder: Path, database_url: str, redis_url: str, port: int) -> dict[str, str]:
    accounts = folder / "accounts.json"
    accounts.write_text(json.dumps([{**CLIENT, "role": "ADMIN", "rate_per_minute": int(PLENTY)}]))
    accounts.chmod(0o600)
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{MODULE}{os.pathsep}{MODULE.parent / 'shared'}",
        "PORT": str(port),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "KEY_ENCRYPTION_KEY": base64.b64encode(os.urandom(32)).decode(),
        "SECRET_HASH_KEY": base64.b64encode(os.urandom(32)).decode(),
        "BOOTSTRAP_ACCOUNTS_FILE": str(accounts),
        "IP_RATE_LIMIT_PER_MINUTE": PLENTY,
    }


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(url: str, seconds: float, concurrency: int, pid: int) -> tuple[int, float, float]:
    """(tokens, seconds, CPU seconds of admin)."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def token() -> int:
            async with session.post(f"{url}/api/auth/token", json=CLIENT) as answer:
                await answer.read()
                return answer.status

        done = 0
        began_s, used_s = time.monotonic(), cpu_s(pid)

        async def ask() -> None:
            nonlocal done
            while time.monotonic() - began_s < seconds:
                if (status := await token()) != 200:
                    raise RuntimeError(f"status {status}")
                done += 1

        await asyncio.gather(*(ask() for _ in range(concurrency)))
        return done, time.monotonic() - began_s, cpu_s(pid) - used_s


async def until_it_signs(url: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            try:
                async with session.post(f"{url}/api/auth/token", json=CLIENT) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


@contextmanager
def running_admin(**settings: str) -> Iterator[tuple[str, dict[str, str], int]]:
    """(address, environment, process id) of an admin with PostgreSQL and Valkey of its own."""
    with temporary_folder("artstore-bench-") as folder:
        postgres, valkey = start_postgres(folder), start_valkey(folder)
        port = free_port()
        database_url = postgres.url(asyncio.run(postgres.new_database()))
        given = {**environment(folder, database_url, valkey.url(), port), **settings}
        with (folder / "admin.log").open("wb") as log:
            command = [sys.executable, "-m", "app.main"]
            admin = subprocess.Popen(command, cwd=MODULE, env=given, stdout=log, stderr=log)  # noqa: S603
        try:
            url = f"http://127.0.0.1:{port}"
            asyncio.run(until_it_signs(url))
            yield url, given, admin.pid
        finally:
            admin.terminate()
            admin.wait(15)
            valkey.stop()
            postgres.stop()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    concurrency = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    with running_admin() as (url, _, pid):
        done, took_s, used_s = asyncio.run(load(url, seconds, concurrency, pid))
    cost = f"{used_s / done * 1e6:.0f} µs of a core each, {done / used_s:.0f}/s at a whole core"
    sys.stdout.write(f"{done / took_s:.0f} tokens/s at c={concurrency}; {cost}\n")


if __name__ == "__main__":
    main()
