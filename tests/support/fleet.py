"""A fleet with two admins or more of everything, started by hand so that each process can have settings of its own, be killed,
paused and started again; PostgreSQL and Valkey too. Wired, every edge of every process passes a proxy."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

from artstore.local import caddy
from artstore.testing.network import Network
from artstore.testing.preloaded import Forked
from artstore.testing.preloaded import start as start_forked
from artstore.testing.services import (
    PostgresServer,
    ValkeyServer,
    lasting_port,
    start_postgres,
    start_valkey,
    temporary_folder,
)
from artstore.testing.valkey_cluster import ValkeyCluster

from .layout import ADMIN, CALLERS, EDIT, MODULES, POSTGRES, REDIS, SMALL, Wiring, account_of, kind_of, wire

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 120
START_WAIT_S = 240
"""Many processes start at once, and each loads a second and a half of Python."""
UNLIMITED = {"RATE_LIMIT_PER_MINUTE": "1000000", "RATE_LIMIT_BURST": "1000000", "IP_RATE_LIMIT_PER_MINUTE": "1000000",
             "IP_BLOCK_AFTER_FAILURES": "1000000"}  # fmt: skip
DATABASE_ROLES = {
    "admin": "artstore_admin",
    "se": "artstore_element",
    "ingester": "artstore_ingester",
    "query": "artstore_query",
}
T = TypeVar("T")


@dataclass
class Fleet:
    folder: Path
    postgres: PostgresServer
    valkey: ValkeyServer
    database: str
    settings: dict[str, str]
    names: tuple[str, ...] = SMALL
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes] | Forked] = field(default_factory=dict)
    wiring: Wiring | None = None
    own_settings: dict[str, dict[str, str]] = field(default_factory=dict)
    """Settings of single processes."""
    standby_port: int | None = None
    """The port of a second host in each DATABASE_URL; its server need not run yet."""
    cluster: ValkeyCluster | None = None
    """Used instead of `valkey`, past all proxies."""

    def url(self, name: str) -> str:
        """Past all proxies."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def front(self, name: str) -> str:
        """The address at which callers reach it: in a wired fleet a proxy."""
        return f"http://127.0.0.1:{self._port(name, CALLERS, self.ports[name])}"

    def start(
        self, name: str, settings: Mapping[str, str] | None = None, *, account: str | None = None, skew_s: float = 0
    ) -> None:
        """A known name gets its old port. Settings given here win; an empty one takes a setting away.

        `skew_s`: how far its clock goes ahead of ours.
        """
        self.ports.setdefault(name, lasting_port())
        of_this_one = {**self.own_settings.get(name, {}), **(settings or {})}
        environment = {**self._environment(name, account or account_of(name)), **self.settings, **of_this_one}
        environment = {key: value for key, value in environment.items() if value}
        module = ROOT / MODULES[kind_of(name)]
        with (self.folder / f"{name}.log").open("ab") as log:
            if skew_s:
                program = [sys.executable, str(ROOT / "tests" / "support" / "skewed.py"), str(skew_s)]
                self.processes[name] = subprocess.Popen(program, cwd=module, stdout=log, stderr=log, env=environment)
            else:
                self.processes[name] = start_forked(module, environment, log, log)

    def start_gateway(self) -> str:
        """In front of all admins, ingesters and queries of the fleet. Returns its address."""
        addresses = {
            kind: [f"127.0.0.1:{self.ports[name]}" for name in self.names if kind_of(name) == kind]
            for kind in ("admin", "ingester", "query")
        }
        port, data = self.ports.setdefault("gateway", lasting_port()), self.folder / "gateway"
        data.mkdir(mode=0o700, exist_ok=True)
        command = caddy.command(ROOT / "gateway")
        environment = caddy.environment(ROOT / "gateway", data, port, addresses)
        with (self.folder / "gateway.log").open("ab") as log:
            self.processes["gateway"] = subprocess.Popen(command, cwd=data, stdout=log, stderr=log, env=environment)
        self.ready("gateway")
        return self.url("gateway")

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(120)

    def start_postgres(self) -> None:
        """Again, on its old port."""
        self.postgres = start_postgres(self.folder, self.postgres.port)

    def start_valkey(self) -> None:
        """Again, on its old port, and empty."""
        self.valkey = start_valkey(self.folder, self.valkey.port)

    def ready(self, *names: str) -> None:
        for name in names:
            try:
                eventually(partial(answers, f"{self.url(name)}/health/ready"), START_WAIT_S)
            except AssertionError as error:
                last = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
                raise AssertionError(f"{name} is not ready: {last}") from error

    def elements_are_announced(self) -> bool:
        """All of them, which an element does by itself once admin is there."""
        listed = self.call("GET", "admin-1", "/api/storage-elements").json().get("items", [])
        return {element["id"] for element in listed} >= {name for name in self.names if kind_of(name) == "se"}

    def credentials(self, client_id: str) -> dict[str, str]:
        accounts = json.loads((self.folder / "keys" / "accounts.json").read_text())
        (found,) = (one for one in accounts if one["client_id"] == client_id)
        return {"client_id": client_id, "client_secret": found["client_secret"].strip()}

    def token(self, credentials: dict[str, str] | None = None, admin: str = "admin-1") -> str:
        asked = credentials or self.credentials("admin")
        answer = httpx.post(f"{self.url(admin)}/api/auth/token", json=asked, timeout=120)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def call(self, method: str, name: str, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token or self.token()}", **options.pop("headers", {})}
        return httpx.request(method, self.url(name) + path, headers=headers, timeout=120, **options)

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
            "DATABASE_URL": self._database_url(name, DATABASE_ROLES[kind_of(name)]),
            "DATABASE_POOL_SIZE": "8",
            "DATABASE_MAX_OVERFLOW": "4",
            "REDIS_URL": self._redis_url(name),
            "AUDIT_FOLDER": str(self.folder / f"{name}-audit"),
            "TRUSTED_PROXIES": caddy.SOURCE,
            **UNLIMITED,
        }
        if name.startswith("admin"):
            return {**common, "DATABASE_OWNER_URL": self._database_url(name, "postgres"),
                    "DATABASE_ROLES_FILE": str(keys / "database-roles.json"),
                    "BOOTSTRAP_ACCOUNTS_FILE": str(keys / "accounts.json"),
                    "KEY_ENCRYPTION_KEY_FILE": str(keys / "key-encryption-key"),
                    "SECRET_HASH_KEY_FILE": str(keys / "secret-hash-key")}  # fmt: skip
        admin = self.ports["admin-2" if account == "query" else "admin-1"]
        client = {**common, "ADMIN_URL": f"http://127.0.0.1:{self._port(name, ADMIN, admin)}",
                  "SERVICE_CLIENT_ID": account, "SERVICE_CLIENT_SECRET_FILE": str(keys / f"{account}.secret"),
                  "JWKS_FILE": str(self.folder / f"{name}-jwks.json"),
                  "KEPT_TOKEN_FILE": str(self.folder / f"{name}-token.json")}  # fmt: skip
        if kind_of(name) != "se":
            kept = {"DISCOVERY_FILE": str(self.folder / f"{name}-elements.json")} if self.wiring else {}
            return {**client, **kept}
        mode = "edit" if name in EDIT else "rw"
        return {**client, "STORAGE_ELEMENT_ID": name, "STORAGE_MODE": mode, "STORAGE_BACKEND": "local",
                "STORAGE_ROOT": str(self.folder / name), "ELEMENT_URL": self.front(name)}  # fmt: skip

    def _redis_url(self, name: str) -> str:
        if self.cluster is not None:
            return self.cluster.url()
        return self.valkey.url(port=self._port(name, REDIS, self.valkey.port))

    def _database_url(self, name: str, role: str) -> str:
        """The server trusts whom it hears from; the role decides what the process may do."""
        port = self._port(name, POSTGRES, self.postgres.port)
        url = self.postgres.url(self.database, port).replace("//postgres@", f"//{role}@")
        if self.standby_port is None:
            return url
        hosts = f"127.0.0.1:{port},127.0.0.1:{self.standby_port}"
        return url.replace(f"127.0.0.1:{port}", hosts) + "?target_session_attrs=read-write"

    def _port(self, name: str, edge: str, direct: int) -> int:
        """The edge's proxy where there is one; a process that came later has none."""
        known = self.wiring is not None and (name, edge) in self.wiring.proxies
        return self.wiring.port(name, edge) if self.wiring is not None and known else direct


@contextmanager
def running_fleet(
    names: tuple[str, ...] = SMALL,
    settings: Mapping[str, str] | None = None,
    *,
    network: Network | None = None,
    own_settings: dict[str, dict[str, str]] | None = None,
    standby_port: int | None = None,
    cluster: ValkeyCluster | None = None,
) -> Iterator[Fleet]:
    """All of it ready; `settings` go to every process that knows them. With a network every edge passes a proxy of it."""
    with temporary_folder("artstore-fleet-") as folder, ExitStack() as stopped_last:
        postgres, valkey = start_postgres(folder, lasting_port()), start_valkey(folder, lasting_port())
        fleet = Fleet(folder, postgres, valkey, "artstore_" + secrets.token_hex(4), dict(settings or {}), names)
        fleet.own_settings, fleet.standby_port, fleet.cluster = own_settings or {}, standby_port, cluster
        stopped_last.callback(lambda: fleet.postgres.discard())
        stopped_last.callback(lambda: fleet.valkey.stop())
        subprocess.run([sys.executable, ROOT / "keys" / "generate.py", folder / "keys"], check=True)
        add_accounts(fleet)
        make_database(fleet)
        fleet.ports |= {name: lasting_port() for name in names}
        if network is not None:
            fleet.wiring = wire(network, names, fleet.ports, postgres.port, valkey.port)
        try:
            for name in names:
                fleet.start(name)
            fleet.ready(*names)
            eventually(fleet.elements_are_announced, START_WAIT_S)
            yield fleet
        finally:
            end_all(fleet)


def end_all(fleet: Fleet) -> None:
    """Also those that were paused."""
    for process in fleet.processes.values():
        process.send_signal(signal.SIGCONT)
        process.terminate()
    for process in fleet.processes.values():
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def add_accounts(fleet: Fleet) -> None:
    """For elements that the generator of keys does not know."""
    path = fleet.folder / "keys" / "accounts.json"
    accounts = json.loads(path.read_text())
    known = {account["client_id"] for account in accounts}
    for name in fleet.names:
        if kind_of(name) == "se" and name not in known:
            secret = secrets.token_urlsafe(32)
            accounts.append(
                {"client_id": name, "client_secret": secret, "role": "SERVICE", "permissions": ["elements:report"]}
            )
            file = fleet.folder / "keys" / f"{name}.secret"
            file.touch(mode=0o600)
            file.write_text(secret)
    path.write_text(json.dumps(accounts))


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


@contextmanager
def repeating(action: Callable[[], bool], at_once: int) -> Iterator[None]:
    """`action` in so many threads, again and again until the end of the block; after False with a pause. Raises what it
    raised."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            if not action():
                ended.wait(0.1)

    with ThreadPoolExecutor(at_once) as threads:
        running = [threads.submit(run) for _ in range(at_once)]
        try:
            yield
        finally:
            ended.set()
        for one in running:
            one.result()


def eventually(question: Callable[[], T | None], wait_s: float = WAIT_S) -> T:
    """The first true answer."""
    deadline = time.monotonic() + wait_s
    while True:
        answer = question()
        if answer or time.monotonic() > deadline:
            assert answer, f"not within {wait_s} s"
            return answer
        time.sleep(0.1)
