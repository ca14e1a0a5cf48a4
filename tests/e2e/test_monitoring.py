"""A real Prometheus scrapes the running system: every target is up, the rules load, no query fails, and every panel shows
something."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.fleet import eventually
from support.observability import FOLDER, RULES, Query, alert_queries, dashboard_queries, needs_prometheus
from support.system import System

from artstore.testing.services import free_port

pytestmark = needs_prometheus
PORTS_OF_LOCAL = 8000
SHOW_NOTHING_WITHOUT_A_FAULT = {
    "overview: Alerts",
    "overview: Failed operations on files",
    "caches: Failed Redis operations per second",
    "caches: Refused with 429 per second",
    "safety: Damaged files found in a day",
    "safety: Open",
}


@dataclass(frozen=True)
class Prometheus:
    url: str

    def get(self, path: str, **params: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=60)
        assert answer.status_code == 200, f"{params}: {answer.text}"
        return answer.json()["data"]

    def query(self, expr: str) -> list[Any]:
        return list(self.get("query", query=expr)["result"])


@pytest.fixture(scope="module")
def prometheus(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """With the configuration for a local system, but another port base and a scrape every two seconds."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    text = (FOLDER / "local.yml").read_text().replace("15s", "2s")
    known = yaml.safe_load(text)
    known["rule_files"] = [str(FOLDER / "alerts.yml")]
    for job in known["scrape_configs"]:
        for targets in job["static_configs"]:
            targets["targets"] = [moved(target, system.base) for target in targets["targets"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(known))
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Prometheus(started(process, f"http://127.0.0.1:{port}", folder / "log"))
    finally:
        process.kill()
        process.wait()


def moved(target: str, base: int) -> str:
    host, _, port = target.partition(":")
    return f"{host}:{int(port) - PORTS_OF_LOCAL + base}"


def started(process: subprocess.Popen[bytes], url: str, log: Path) -> str:
    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    eventually(ready)
    return url


@pytest.fixture(scope="module")
def story(client: httpx.Client, system: System) -> None:
    """A little of everything that the panels show."""
    upload, files = f"{system.url('ingester')}/api/files/upload", f"{system.url('query')}/api/files"
    for retention in ("permanent", "temporary"):
        answer = client.post(
            upload,
            params={"retention": retention, **({"ttl_days": "1"} if retention == "temporary" else {})},
            files={"file": ("monitored.bin", os.urandom(1000), "application/octet-stream")},
            headers={"idempotency-key": os.urandom(8).hex()},
        )
        assert answer.status_code == 201, answer.text
        file_id = answer.json()["file_id"]
        for _ in range(2):
            assert client.get(f"{files}/{file_id}").status_code == 200
            assert client.get(f"{files}/{file_id}/content").status_code == 200
    assert client.delete(f"{system.url('ingester')}/api/files/{file_id}").status_code in (200, 204)
    assert client.get(files, params={"limit": "1"}).status_code == 200
    assert client.get(f"{files}/{file_id}").status_code == 404


@pytest.mark.usefixtures("story")
def test_every_target_is_up_and_every_panel_shows_something(prometheus: Prometheus) -> None:
    def all_up() -> bool:
        active = prometheus.get("targets", state="active")["activeTargets"]
        return len(active) == 6 and {target["health"] for target in active} == {"up"}

    eventually(all_up)
    missing = {query for query in dashboard_queries() if query.name not in SHOW_NOTHING_WITHOUT_A_FAULT}

    def all_shown() -> bool:
        nonlocal missing
        missing = {query for query in missing if not prometheus.query(query.expr)}
        return not missing

    try:
        eventually(all_shown)
    except AssertionError:
        pytest.fail(f"nothing is shown by {sorted(query.name for query in missing)}")


@pytest.mark.parametrize("query", [*alert_queries(), *dashboard_queries()], ids=lambda query: query.name)
def test_a_query_is_answered(prometheus: Prometheus, query: Query) -> None:
    prometheus.query(query.expr)


def test_the_rules_are_evaluated_and_none_calls_for_help(prometheus: Prometheus) -> None:
    def evaluated() -> list[Any]:
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = eventually(evaluated)
    assert sorted(rule["name"] for rule in rules) == sorted(rule["alert"] for rule in RULES)
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
    firing = {rule["name"] for rule in rules if rule["state"] == "firing" and rule["labels"]["severity"] == "critical"}
    assert not firing


def test_a_sum_of_the_used_space_counts_each_file_once(
    prometheus: Prometheus, client: httpx.Client, system: System
) -> None:
    def same() -> bool:
        stored = sum(
            int(client.get(f"{system.url(element)}/api/element").json()["capacity"]["used_bytes"])
            for element in ("se-01", "se-02", "se-03")
        )
        return [int(one["value"][1]) for one in prometheus.query("sum(storage_space_used_bytes)")] == [stored]

    eventually(same)
