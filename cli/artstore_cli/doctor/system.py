"""The system that is examined: its one address, the services behind it, and its data folder where that is here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from artstore.local.ports import LOOPBACK

from ..connection import Connection
from ..data_folder import DataFolder
from ..fleet import GATEWAY
from ..repository import ROOT
from ..running import status

TIMEOUT_S = 30


@dataclass
class Examined:
    connection: Connection
    services: Mapping[str, str]
    """The own address of each process, by name; empty when they cannot be reached from here."""
    folder: DataFolder | None = None
    backups: Path | None = None
    _metrics: dict[str, list[tuple[str, dict[str, str], float]]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The one address."""
        return self.connection.url

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT_S, headers={"authorization": f"Bearer {self.token}"})

    @cached_property
    def token(self) -> str:
        given = {"client_id": self.connection.client_id, "client_secret": self.connection.client_secret}
        answer = httpx.post(f"{self.url}/api/auth/token", json=given, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of an answer at the one address. Raises httpx.HTTPError."""
        answer = self.http.get(path, params=query)
        answer.raise_for_status()
        return answer.json()

    @cached_property
    def elements(self) -> list[dict[str, Any]]:
        return list(self.get("/api/storage-elements", limit=1000)["items"])

    def samples(self, name: str) -> Iterator[tuple[str, dict[str, str], float]]:
        """(service, labels, value) of this metric in all services."""
        for service in self.services:
            for found, labels, value in self._samples_of(service):
                if found == name:
                    yield service, labels, value

    def total(self, name: str) -> float:
        return sum(value for _, _, value in self.samples(name))

    def _samples_of(self, service: str) -> list[tuple[str, dict[str, str], float]]:
        if service not in self._metrics:
            answer = httpx.get(f"{self.services[service]}/metrics", timeout=TIMEOUT_S)
            answer.raise_for_status()
            self._metrics[service] = [
                (sample.name, sample.labels, sample.value)
                for family in text_string_to_metric_families(answer.text)
                for sample in family.samples
            ]
        return self._metrics[service]

    def clock_of(self, url: str) -> tuple[float, float]:
        """The time that the server's Date header states, and ours in the middle of the call; both in s since 1970."""
        before = time.time()
        answer = httpx.get(f"{url}/health/live", timeout=TIMEOUT_S)
        stated = answer.headers["date"]
        return time.mktime(time.strptime(stated, "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone, (
            before + time.time()
        ) / 2


def addresses_of(folder: DataFolder) -> dict[str, str]:
    """The own address of each process of the system that runs on the folder."""
    return {
        line.name: f"http://{LOOPBACK}:{line.port}"
        for line in status(ROOT, folder)
        if line.port and line.name != GATEWAY
    }
