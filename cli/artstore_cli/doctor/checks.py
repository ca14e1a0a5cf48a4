"""The checks of `doctor`. Each yields findings; one that raises becomes a finding itself."""

from __future__ import annotations

import base64
import json
import random
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from .system import Examined

KEY_AGE_S, BACKUP_AGE_S, CLOCK_DIFFERENCE_S = 25 * 3600, 26 * 3600, 3
ALMOST_FULL = 0.1
"""Of an element's space: less free than this is a warning."""
SAMPLE_FILES = 20
"""Files of each element that are compared with the catalog."""
LOG_LINES_BYTES = 1 << 14
BREAKER_OPEN = 2
SCRAPES = 3
"""Requests of /metrics that cannot all come from this command."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NEEDED_METRICS = (
    "http_requests_total",
    "http_request_duration_seconds_count",
    "database_connections_active",
    "redis_operations_total",
    "storage_space_used_bytes",
)


class Verdict(StrEnum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    verdict: Verdict
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check found, before it has the check's name."""

    verdict: Verdict
    detail: str
    remedy: str = ""


def good(detail: str) -> Answer:
    return Answer(Verdict.PASS, detail)


def warn(detail: str, remedy: str) -> Answer:
    return Answer(Verdict.WARN, detail, remedy)


def fail(detail: str, remedy: str) -> Answer:
    return Answer(Verdict.FAIL, detail, remedy)


def examine(system: Examined) -> Iterator[Finding]:
    for name, check in CHECKS.items():
        try:
            for answer in check(system):
                yield Finding(name, answer.verdict, answer.detail, answer.remedy)
        except (httpx.HTTPError, OSError, KeyError, ValueError) as error:
            text = f"cannot be checked: {error or type(error).__name__}"
            yield Finding(name, Verdict.FAIL, text, "see whether the services run: artstore status; and their logs")


def check_health(system: Examined) -> Iterator[Answer]:
    for name, url in {"gateway": system.url, **system.services}.items():
        answer = httpx.get(f"{url}/health/ready", timeout=10)
        if answer.status_code != 200:
            checks = answer.json().get("checks", {})
            failing = "; ".join(
                f"{check}: {found.get('detail')}" for check, found in checks.items() if not found.get("ok")
            )
            yield fail(f"{name} is not ready: {failing or answer.status_code}", "docs/operations/outages.md")
    for service, labels, value in system.samples("circuit_breaker_state"):
        if value == BREAKER_OPEN:
            yield fail(
                f"the breaker of {service} to {labels['edge']} is open", f"find out why {labels['edge']} is away"
            )
    yield good(f"{1 + len(system.services)} addresses answered")


def check_tls(system: Examined) -> Iterator[Answer]:
    parts = urlsplit(system.url)
    if parts.scheme == "https":
        yield good("clients use TLS")
    elif parts.hostname in LOOPBACK:
        yield warn(
            "the one address is plain HTTP on this machine", "TLS: docs/operations/gateway.md, before others use it"
        )
    else:
        yield fail(f"{system.url} is plain HTTP: tokens and files can be read on the way", "docs/operations/gateway.md")


def check_tokens(system: Examined) -> Iterator[Answer]:
    encoded = system.token.partition(".")[0]
    header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    if (header.get("alg"), header.get("typ")) != ("RS256", "at+jwt"):
        yield fail(f"tokens are signed by {header.get('alg')}", "only RS256 is allowed: whose token is this?")
    keys = system.get("/api/auth/keys")["items"]
    active = [key for key in keys if key["state"] == "active"]
    if len(active) != 1 or not any(key["state"] == "next" for key in keys):
        yield fail("there is not one active and a next signing key", "POST /api/auth/keys/rotate")
    for key in active:
        age_s = _age_s(key["since"])
        if age_s > KEY_AGE_S:
            yield fail(f"the signing key is {age_s / 3600:.0f} h old, it should change every 24 h", "see admin's log")
        else:
            yield good(f"RS256, RSA-{key['bits']}, the key is {age_s / 3600:.1f} h old")


def check_secrets(system: Examined) -> Iterator[Answer]:
    if system.folder is None:
        yield warn("the keys are not on this machine", "look there: each file readable by one service only")
        return
    for path in sorted(system.folder.keys.iterdir()):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o007:
            yield fail(f"{path} is readable by everybody ({mode:o})", f"chmod o= {path}")
    yield good(f"secrets come from files in {system.folder.keys}")


def check_limits(system: Examined) -> Iterator[Answer]:
    headers = system.http.get("/api/files", params={"limit": 1}).headers
    if "ratelimit-policy" in headers:
        yield good(f"RateLimit-Policy: {headers['ratelimit-policy']}")
    else:
        yield fail("answers have no RateLimit-Policy", "requests per account are not limited: RATE_LIMIT_PER_MINUTE")


def check_cors(system: Examined) -> Iterator[Answer]:
    origin = "https://stranger.example"
    asked = {"origin": origin, "access-control-request-method": "GET"}
    allowed = httpx.options(f"{system.url}/api/files", headers=asked).headers.get("access-control-allow-origin")
    if allowed in ("*", origin):
        yield fail("pages of every origin may call the API", "name the origins in CORS_ALLOWED_ORIGINS")
    else:
        yield good("an unknown origin is not allowed")


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
    unseen = sorted(system.services.keys() - scraped)
    if unseen:
        yield warn(f"nothing seems to scrape {', '.join(unseen)}", "Prometheus: docs/operations.md, docs/alerts.yml")
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


def check_elements(system: Examined) -> Iterator[Answer]:
    for element in system.elements:
        name, capacity = element["id"], element["capacity"]
        if element["status"] != "online":
            yield fail(
                f"{name} is {element['status']}: {element['away_reason'] or 'no report'}", "start it, mount its disk"
            )
        if element["read_only_reason"]:
            yield fail(f"{name} has become read-only: {element['read_only_reason']}", "docs/operations/elements.md")
        if element["refused"]:
            yield fail(
                f"{name} reports from a refused root", "mount its disk or accept-root: docs/operations/elements.md"
            )
        free = capacity["available_bytes"] / capacity["total_bytes"] if capacity and capacity["total_bytes"] else 1.0
        if free < ALMOST_FULL and element["mode"] in ("edit", "rw"):
            yield warn(f"{name} has {free:.0%} of its space left", "add an element, then set this one to ro")
    modes = {element["mode"] for element in system.elements if element["status"] == "online"}
    for mode, kind in (("rw", "permanent"), ("edit", "temporary")):
        if mode not in modes:
            yield fail(f"no element in mode {mode} is online: {kind} files cannot be stored", "add or start one")
    known = ", ".join(f"{element['id']} {element['mode']}" for element in system.elements)
    yield good(f"{len(system.elements)} elements: {known}")


def check_damage(system: Examined) -> Iterator[Answer]:
    for service, labels, value in system.samples("upkeep_findings_total"):
        if value and labels["problem"] not in ("foreign",):
            yield fail(
                f"{service} found {value:.0f} files: {labels['problem']}", "docs/operations/elements.md, quarantine"
            )
    if system.total("element_failed"):
        yield fail("a disk has failed", "replace it: docs/operations/elements.md")
    yield good("no damaged files are known")


def check_pending(system: Examined) -> Iterator[Answer]:
    hanging = system.get("/api/sagas", hanging="true", limit=1000)["items"]
    if hanging:
        yield warn(f"{len(hanging)} sagas wait for an element", "artstore sagas list: their last errors name it")
    for metric, text in (
        ("element_owed_files", "changes wait for S3 or PostgreSQL"),
        ("element_unsettled_files", "changes wait for PostgreSQL"),
        ("catalog_unreconciled_elements", "elements still compare the catalog with their disks"),
        ("audit_events_waiting", "audit events wait for PostgreSQL"),
    ):
        waiting = system.total(metric)
        if waiting > 100:
            yield warn(f"{waiting:.0f} {text}", "it settles by itself once the dependency is back")
    lag_s = max((value for _, _, value in system.samples("search_index_lag_seconds")), default=0)
    if lag_s > 60:
        yield warn(f"the index of words is {lag_s:.0f} s behind", "it catches up; see alert SearchIndexLate")
    yield good(f"{system.total('wal_open_intents'):.0f} open intents, nothing hangs")


def check_audit(system: Examined) -> Iterator[Answer]:
    verified = system.get("/api/audit/verify")
    if not verified["ok"]:
        yield fail(f"the audit log is damaged: {verified['findings'][:1]}", "docs/operations/audit-log.md")
    dropped = system.total("audit_events_dropped_total")
    if dropped:
        yield fail(f"{dropped:.0f} audit events were lost", "AUDIT_FOLDER of that service was full or gone")
    yield good(f"{verified['events']} events, {len(verified['chains'])} chains")


def check_backups(system: Examined) -> Iterator[Answer]:
    if system.backups is None:
        yield warn("no folder of backups was named", "artstore backup DIR; then doctor --backups DIR")
        return
    newest = max((path.parent for path in system.backups.glob("*Z/manifest.json")), default=None)
    if newest is None:
        yield fail(f"{system.backups} holds no complete backup", "artstore backup DIR")
        return
    manifest = json.loads((newest / "manifest.json").read_text())
    age_s = _age_s(manifest["began_at"])
    damaged = sum(len(element["damaged"]) for element in manifest["elements"])
    if damaged:
        yield fail(f"{damaged} files were damaged and are not in the last backup", "restore them from an earlier one")
    if not manifest["has_keys"]:
        yield warn("the last backup has no keys", "keep a copy elsewhere, or --keys-passphrase-file")
    if age_s > BACKUP_AGE_S:
        yield fail(f"the last backup is {age_s / 3600:.0f} h old", "let cron or a timer run artstore backup")
    else:
        yield good(f"the last backup is {age_s / 3600:.1f} h old")


def check_catalog(system: Examined) -> Iterator[Answer]:
    """Files of the local elements, chosen at random, against what the one address says of them."""
    if system.folder is None:
        yield warn(
            "the elements' disks are not on this machine", "POST /api/storage-elements/{id}/rebuild compares all"
        )
        return
    compared = 0
    for element in system.elements:
        root = system.folder.elements / element["id"] / "files"
        for path in _some_files(root):
            kept = json.loads(path.read_bytes())
            answer = system.http.get(f"/api/files/{kept['file_id']}")
            compared += 1
            if answer.status_code != 200:
                yield fail(
                    f"{kept['file_id']} is on {element['id']} and answered {answer.status_code}", "rebuild the element"
                )
            elif answer.json()["revision"] < kept["revision"] or answer.json()["checksum"] != kept["checksum"]:
                yield fail(f"the catalog has another version of {kept['file_id']}", "rebuild the element")
    yield good(f"{compared} files on disk are as the catalog says")


def check_roles(system: Examined) -> Iterator[Answer]:
    if system.folder is None:
        yield warn("the database is not on this machine", "no service but admin's migration may be superuser")
        return
    urls = {path.name: path.read_text() for path in system.folder.keys.glob("database-url-*")}
    users = {name: urlsplit(url).username for name, url in urls.items()}
    services = {
        name: user
        for name, user in users.items()
        if name.rpartition("-")[2] in ("admin", "element", "ingester", "query")
    }
    if len(set(services.values())) < len(services) or "artstore" in services.values():
        yield fail("services share a database role, or use the superuser", "keys/generate.py makes a role for each")
    else:
        yield good(f"roles of their own: {', '.join(sorted(str(user) for user in services.values()))}")


CHECKS: dict[str, Callable[[Examined], Iterator[Answer]]] = {
    "health": check_health,
    "tls": check_tls,
    "tokens": check_tokens,
    "secrets": check_secrets,
    "database roles": check_roles,
    "limits": check_limits,
    "cors": check_cors,
    "logs": check_logs,
    "metrics": check_metrics,
    "clocks": check_clocks,
    "elements": check_elements,
    "damage": check_damage,
    "pending work": check_pending,
    "catalog": check_catalog,
    "audit log": check_audit,
    "backups": check_backups,
}


def _age_s(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def _last_line(log: Path) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_LINES_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return lines[-1] if lines else ""


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _some_files(root: Path) -> list[Path]:
    """Paths of attr.json from a few folders, so that a million files need not be listed."""
    found: list[Path] = []
    folders = [path for path in root.glob("*") if path.is_dir()]
    random.shuffle(folders)
    deadline_s = time.monotonic() + 2
    for folder in folders:
        found += folder.glob("*/*.attr.json")
        if len(found) >= SAMPLE_FILES or time.monotonic() > deadline_s:
            break
    return random.sample(found, min(SAMPLE_FILES, len(found)))
