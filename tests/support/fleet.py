"""A fleet with two admins, started by hand so that each process can have settings of its own, be killed and be started again."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from artstore.testing.services import (
    PostgresServer,
    ValkeyServer,
    free_port,
    start_postgres,
    start_valkey,
    temporary_folder,
)

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"admin": "admin-module", "se": "storage-element", "ingester": "ingester-module", "query": "query-module"}
NAMES = ("admin-1", "admin-2", "se-01", "se-02", "ingester", "query")
WAIT_S = 60
UNLIMITED = {"RATE_LIMIT_PER_MINUTE": "1000000", "RATE_LIMIT_BURST": "1000000", "IP_RATE_LIMIT_PER_MINUTE": "1000000",
             "IP_RATE_LIMIT_BURST": "1000000", "IP_BLOCK_AFTER_FAILURES": "1000000"}  # fmt: skip
T = TypeVar("T")


@dataclass
class Fleet:
    folder: Path
    postgres: PostgresServer
    valkey: ValkeyServer
    database: str
    settings: dict[str, str]
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def start(self, name: str, *, account: str | None = None, **settings: str) -> None:
        """A known name gets its old port. Settings given here win; an empty one takes a setting away."""
        self.ports.setdefault(name, free_port())
        environment = {**self._environment(name, account or name), **self.settings, **settings}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "app.main"], cwd=ROOT / MODULES[name.partition("-")[0]], stdout=log, stderr=log,
                env={key: value for key, value in environment.items() if value},
            )  # fmt: skip

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(30)

    def ready(self, *names: str) -> None:
        for name in names:
            try:
                eventually(lambda name=name: answers(f"{self.url(name)}/health/ready"))
            except AssertionError as error:
                last = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"{name} is not ready: {last}") from error

    def elements_are_announced(self) -> bool:
        """Both, which an element does by itself once admin is there."""
        listed = self.call("GET", "admin-1", "/api/storage-elements").json().get("items", [])
        return {element["id"] for element in listed} >= {name for name in NAMES if name.startswith("se-")}

    def credentials(self, client_id: str) -> dict[str, str]:
        accounts = json.loads((self.folder / "keys" / "accounts.json").read_text())
        (found,) = (one for one in accounts if one["client_id"] == client_id)
        return {"client_id": client_id, "client_secret": found["client_secret"].strip()}

    def token(self, credentials: dict[str, str] | None = None, admin: str = "admin-1") -> str:
        asked = credentials or self.credentials("admin")
        answer = httpx.post(f"{self.url(admin)}/api/auth/token", json=asked, timeout=30)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def call(self, method: str, name: str, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token or self.token()}", **options.pop("headers", {})}
        return httpx.request(method, self.url(name) + path, headers=headers, timeout=30, **options)

    def new_account(self, role: str = "USER", **more: Any) -> dict[str, str]:
        answer = self.call("POST", "admin-1", "/api/service-accounts", json={"role": role, **more})
        assert answer.status_code == 201, answer.text
        return {name: answer.json()[name] for name in ("id", "client_id", "client_secret")}

    def upload(self, token: str, content: bytes = b"content", **params: str) -> httpx.Response:
        headers = {"content-type": "application/octet-stream"}
        params = {"filename": "a.bin", **params}
        return self.call(
            "POST", "ingester", "/api/files/upload", token, params=params, content=content, headers=headers
        )

    def _environment(self, name: str, account: str) -> dict[str, str]:
        keys = self.folder / "keys"
        common = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "shared"),
            "PORT": str(self.ports[name]),
            "DATABASE_URL": self.postgres.url(self.database),
            "DATABASE_POOL_SIZE": "8",
            "REDIS_URL": self.valkey.url(),
            "AUDIT_FOLDER": str(self.folder / f"{name}-audit"),
            **UNLIMITED,
        }
        if name.startswith("admin"):
            return {**common, "BOOTSTRAP_ACCOUNTS_FILE": str(keys / "accounts.json"),
                    "KEY_ENCRYPTION_KEY_FILE": str(keys / "key-encryption-key"),
                    "SECRET_HASH_KEY_FILE": str(keys / "secret-hash-key")}  # fmt: skip
        client = {**common, "ADMIN_URL": self.url("admin-2" if account == "query" else "admin-1"),
                  "SERVICE_CLIENT_ID": account, "SERVICE_CLIENT_SECRET_FILE": str(keys / f"{account}.secret"),
                  "JWKS_FILE": str(self.folder / f"{name}-jwks.json")}  # fmt: skip
        if not name.startswith("se-"):
            return client
        mode = "edit" if name == "se-01" else "rw"
        return {**client, "STORAGE_ELEMENT_ID": name, "STORAGE_MODE": mode, "STORAGE_BACKEND": "local",
                "STORAGE_ROOT": str(self.folder / name), "ELEMENT_URL": self.url(name)}  # fmt: skip


@contextmanager
def running_fleet(**settings: str) -> Iterator[Fleet]:
    """All of it ready; `settings` go to every process that knows them."""
    with temporary_folder("artstore-fleet-") as folder:
        postgres, valkey = start_postgres(folder), start_valkey(folder)
        fleet = Fleet(folder, postgres, valkey, "artstore_" + secrets.token_hex(4), settings)
        subprocess.run([sys.executable, ROOT / "keys" / "generate.py", folder / "keys"], check=True)
        try:
            make_database(fleet)
            for name in NAMES:
                fleet.ports[name] = free_port()
            for name in NAMES:
                fleet.start(name)
            fleet.ready(*NAMES)
            eventually(fleet.elements_are_announced)
            yield fleet
        finally:
            for name in list(fleet.processes):
                fleet.processes[name].terminate()
            for process in fleet.processes.values():
                process.wait(30)
            fleet.valkey.stop()
            fleet.postgres.stop()


def make_database(fleet: Fleet) -> None:
    import asyncio

    import asyncpg

    async def make() -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=fleet.postgres.port, user="postgres", database="postgres"
        )
        await connection.execute(f"CREATE DATABASE {fleet.database}")
        await connection.close()

    asyncio.run(make())


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def eventually(question: Callable[[], T], wait_s: float = WAIT_S) -> T:
    """The first true answer."""
    deadline = time.monotonic() + wait_s
    while True:
        answer = question()
        if answer or time.monotonic() > deadline:
            assert answer, f"not within {wait_s} s"
            return answer
        time.sleep(0.1)
