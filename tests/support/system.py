"""A whole system under test: one of its own from `./artstore up`, or one that runs already (compose).

ARTSTORE_SYSTEM_KEYS names the folder with admin-client.json of a running system; its services and its gateway then are
looked for on the default ports of 127.0.0.1. ARTSTORE_TEST_REDIS=cluster gives a system of its own a Valkey Cluster.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from artstore.local.ports import is_free
from artstore.testing.valkey_cluster import running_cluster

ROOT = Path(__file__).resolve().parents[2]
OFFSETS = {"admin": 0, "se-01": 10, "se-02": 11, "se-03": 12, "ingester": 20, "query": 30, "gateway": 80}
TIMEOUT_S = 60


@dataclass(frozen=True)
class System:
    """Addresses and credentials. `data` is the folder of `./artstore up`, None for compose."""

    base: int
    keys: Path
    data: Path | None

    @property
    def address(self) -> str:
        """The one address for clients: the gateway's."""
        return self.url("gateway")

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.base + OFFSETS[service]}"

    def credentials(self) -> dict[str, str]:
        return dict(json.loads((self.keys / "admin-client.json").read_text()))

    def token(self, client_id: str | None = None, client_secret: str | None = None) -> str:
        asked = self.credentials() if client_id is None else {"client_id": client_id, "client_secret": client_secret}
        answer = httpx.post(f"{self.url('admin')}/api/auth/token", json=asked, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def client(self, token: str | None = None) -> httpx.Client:
        return httpx.Client(headers={"authorization": f"Bearer {token or self.token()}"}, timeout=TIMEOUT_S)

    def new_account(self, role: str) -> dict[str, str]:
        """{"client_id", "client_secret"} of a fresh account."""
        wanted = {"client_id": f"test-{role.lower()}-{secrets.token_hex(4)}", "role": role}
        with self.client() as client:
            answer = client.post(f"{self.url('admin')}/api/service-accounts", json=wanted)
        answer.raise_for_status()
        return {name: answer.json()[name] for name in ("client_id", "client_secret")}


@contextmanager
def running_system(*options: str) -> Iterator[System]:
    """A system of this test's own, started and stopped with the user's commands; or the one the environment names."""
    keys = os.environ.get("ARTSTORE_SYSTEM_KEYS")
    if keys:
        yield System(8000, Path(keys), None)
        return
    with own_system(*options) as started:
        yield started


@contextmanager
def own_system(*options: str, **settings: str) -> Iterator[System]:
    """Always one of this test's own; `settings` are environment variables for all of its services."""
    with tempfile.TemporaryDirectory(prefix="artstore-e2e-") as folder, ExitStack() as started:
        Path(folder).chmod(0o711)
        data, base = Path(folder) / "data", free_port_base()
        if os.environ.get("ARTSTORE_TEST_REDIS") == "cluster":
            cluster = started.enter_context(running_cluster(Path(folder)))
            settings = {"REDIS_URL": cluster.url(), **settings}
        run("up", "--data", str(data), "--port-base", str(base), "--detach", *options, settings=settings)
        try:
            yield System(base, data / "keys", data)
        finally:
            run("down", "--data", str(data))


def run(
    *arguments: str, check: bool = True, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(settings or {})}
    done = subprocess.run(
        [ROOT / "artstore", *arguments], capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"./artstore {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done


def free_port_base() -> int:
    """A base whose every port is free now, below the range the system hands out by itself."""
    while True:
        base = 10_000 + secrets.randbelow(2_000) * 10
        if all(is_free(base + offset) for offset in OFFSETS.values()):
            return base
