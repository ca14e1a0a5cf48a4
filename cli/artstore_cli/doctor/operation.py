"""Checks of how it runs: health, breakers, Redis, logs, metrics, clocks, backups."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from .finding import Answer, age_s, fail, good, unseen, warn
from .system import Examined

BACKUP_AGE_S, CLOCK_DIFFERENCE_S = 26 * 3600, 3
LOG_LINES_BYTES = 1 << 14
BREAKER_OPEN = 2
SLOW_LOOP_S = 0.5
"""A loop that is this late has been blocked: by a call that does not yield, or by a machine without free CPU."""
SCRAPES = 3
"""Requests of /metrics that cannot all come from this command."""
LAST_BACKUP = "backup_last_success_timestamp_seconds"
NEEDED_METRICS = (
    "http_requests_total",
    "http_request_duration_seconds_count",
    "database_connections_active",
    "redis_operations_total",
    "storage_space_used_bytes",
)


def check_health(system: Examined) -> Iterator[Answer]:
    for name, url in {"gateway": system.url, **system.services}.items():
        answer = httpx.get(f"{url}/health/ready", timeout=10)
        if answer.status_code != 200:
            checks = answer.json().get("checks", {})
            failing = "; ".join(
                f"{check}: {found.get('detail')}" for check, found in checks.items() if not found.get("ok")
            )
            yield fail(f"{name} is not ready: {failing or answer.status_code}", "docs/operations/outages.md")
    yield good(f"{1 + len(system.services)} addresses answered")


def check_breakers(system: Examined) -> Iterator[Answer]:
    if not system.services:
        yield unseen("the state of the breakers")
        return
    known = list(system.samples("circuit_breaker_state"))
    for service, labels, value in known:
        if value == BREAKER_OPEN:
            yield fail(
                f"the breaker of {service} to {labels['edge']} is open", f"find out why {labels['edge']} is away"
            )
    yield good(f"{len(known)} breakers, none open")


def check_redis(system: Examined) -> Iterator[Answer]:
    """Services speak to Redis, and no call keeps an event loop waiting. One that is idle has had nothing to say."""
    if not system.services:
        yield unseen("the use of Redis")
        return
    users = {service for service, _, _ in system.samples("redis_operations_total")}
    if not users:
        yield fail("no service speaks to Redis", "REDIS_URL; docs/operations/outages.md")
    for service, _, lag_s in system.samples("event_loop_lag_seconds"):
        if lag_s > SLOW_LOOP_S:
            yield warn(f"the event loop of {service} is {lag_s:.1f} s late", "more CPU, or more processes: --scale")
    yield good(f"{len(users)} services use Redis, and their event loops are in time")


def check_logs(system: Examined) -> Iterator[Answer]:
    if system.folder is None:
        yield warn("the logs are not on this machine", "they should be JSON lines: LOG_FORMAT=json")
        return
    for name in system.services:
        last = _last_line(system.folder.log(name))
        if last and not _is_json(last):
            yield warn(f"{name} does not log JSON", "LOG_FORMAT=json, unless a person reads along")
    dropped = system.total("log_lines_dropped_total")
    yield (
        warn(f"{dropped:.0f} log lines were dropped", "the sink is too slow or full") if dropped else good("JSON lines")
    )


def check_metrics(system: Examined) -> Iterator[Answer]:
    if not system.services:
        yield warn("the services' own addresses are not known", "name them: --service admin=http://host:8000 …")
        return
    for name in NEEDED_METRICS:
        if not any(True for _ in system.samples(name)):
            yield fail(f"no service exports {name}", "is this an older version?")
    scraped = {
        service
        for service, labels, value in system.samples("http_requests_total")
        if labels.get("route") == "/metrics" and value >= SCRAPES
    }
    silent = sorted(system.services.keys() - scraped)
    if silent:
        yield warn(f"nothing seems to scrape {', '.join(silent)}", "Prometheus: docs/operations/monitoring.md")
    else:
        yield good("all services are scraped")


def check_clocks(system: Examined) -> Iterator[Answer]:
    for name, url in {"gateway": system.url, **system.services}.items():
        theirs, ours = system.clock_of(url)
        if abs(theirs - ours) > CLOCK_DIFFERENCE_S:
            yield fail(
                f"the clock of {name} differs from ours by {theirs - ours:.0f} s", "chrony or ntpd on both machines"
            )
    for service, _, ahead_s in system.samples("clock_ahead_seconds"):
        if abs(ahead_s) > CLOCK_DIFFERENCE_S:
            yield fail(
                f"the clock of {service} is {ahead_s:.0f} s ahead of PostgreSQL's", "chrony or ntpd on both machines"
            )
    yield good("clocks agree")


def check_backups(system: Examined) -> Iterator[Answer]:
    """The age is that of admin's metric, which the alert uses too; the rest is read in the folder, where it is here."""
    began = [value for _, _, value in system.samples(LAST_BACKUP) if not math.isnan(value)]
    if system.backups is not None:
        yield from _check_newest(system.backups)
    if not began:
        yield unseen("the age of the newest backup")
    elif max(began) == 0:
        yield fail("no complete backup was ever recorded", "artstore backup DIR, every day")
    elif (old_s := time.time() - max(began)) > BACKUP_AGE_S:
        yield fail(f"the last backup is {old_s / 3600:.0f} h old", "let cron or a timer run artstore backup")
    else:
        yield good(f"the last backup is {old_s / 3600:.1f} h old")


def _check_newest(backups: Path) -> Iterator[Answer]:
    newest = max((path.parent for path in backups.glob("*Z/manifest.json")), default=None)
    if newest is None:
        yield fail(f"{backups} holds no complete backup", "artstore backup DIR")
        return
    manifest = json.loads((newest / "manifest.json").read_text())
    damaged = sum(len(element["damaged"]) for element in manifest["elements"])
    if damaged:
        yield fail(f"{damaged} files were damaged and are not in the last backup", "restore them from an earlier one")
    if not manifest["has_keys"]:
        yield warn("the last backup has no keys", "keep a copy elsewhere, or --keys-passphrase-file")
    if age_s(manifest["began_at"]) > BACKUP_AGE_S:
        yield fail(f"the newest backup in {backups} is {age_s(manifest['began_at']) / 3600:.0f} h old", "as below")


def _last_line(log: Path) -> str:
    """The last whole one: a full disk cuts a line off."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_LINES_BYTES))
        whole, end, _ = file.read().decode(errors="replace").rpartition("\n")
    return whole.rpartition("\n")[2] if end else ""


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
