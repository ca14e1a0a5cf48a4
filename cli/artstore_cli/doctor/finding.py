"""The result of a check: pass, warn or fail, with the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


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
    """The result of a check, before it has the check's name."""

    verdict: Verdict
    detail: str
    remedy: str = ""


def good(detail: str) -> Answer:
    return Answer(Verdict.PASS, detail)


def warn(detail: str, remedy: str) -> Answer:
    return Answer(Verdict.WARN, detail, remedy)


def fail(detail: str, remedy: str) -> Answer:
    return Answer(Verdict.FAIL, detail, remedy)


def unseen(what: str) -> Answer:
    """For a check that needs the services' own metrics, which the one address does not show."""
    return warn(f"{what} cannot be seen from here", "name the services: --service admin=http://host:8000 …")


def age_s(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
