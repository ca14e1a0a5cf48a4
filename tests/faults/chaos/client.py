"""A client of the run: what it knows of its files, and how it holds an answer against that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .asking import RETRIED, Answer, Caller
from .history import History, Pending, State
from .staleness import excused

TRIES = 6
"""Attempts of a request with an Idempotency-Key until an answer says what became of it."""
AGAIN_S = (0.2, 1.5)
OF_LATE = 8
"""So many of the newest files are picked more often than the others."""


@dataclass(frozen=True, slots=True)
class Untold:
    """An upload without an acknowledgement: there may be one file of this label, with these bytes."""

    label: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Queued:
    """A change that was answered 202."""

    history: History
    change: Pending
    path: str
    deletes: bool


class Client:
    def __init__(self, name: str, caller: Caller) -> None:
        self.name, self.caller, self.chance = name, caller, caller.chance
        self.files: dict[str, History] = {}
        self.untold: list[Untold] = []
        self.queued: list[Queued] = []
        self.deleted: set[str] = set()
        """Files whose delete was acknowledged."""
        self.labels = 0

    @property
    def now_s(self) -> float:
        return self.caller.weather.now_s

    def new_label(self) -> str:
        self.labels += 1
        return f"{self.name}-{self.labels}"

    def pick(self, *, changeable: bool = False) -> History | None:
        """One of its files, of late more often."""
        known = [one for one in self.files.values() if not changeable or (one.changeable and one.alive)]
        if not known:
            return None
        return self.chance.choice(known[-OF_LATE:] if self.chance.random() < 0.6 else known)

    async def ask(
        self, what: str, method: str, path: str, *, key: str | None, headers: Mapping[str, str],
        body: Callable[[], Mapping[str, Any]],
    ) -> Answer:  # fmt: skip
        """Sends a request to an ingester; with a key to one after the other, until an answer says what became of it."""
        sent = {**headers, **({"idempotency-key": key} if key else {})}
        tries = TRIES if key else 1
        doubtful: Answer | None = None
        while True:
            answer = await self.caller.ask(what, method, "ingester", path, headers=sent, **body())
            tries -= 1
            doubtful = answer if answer.status in RETRIED - {401} else doubtful
            if not (answer.status in RETRIED or is_running(answer)):
                return answer
            if not tries:
                return doubtful or answer
            self.caller.findings.counts["sent again under its key"] += 1
            await asyncio.sleep(self.chance.uniform(*AGAIN_S))

    def record(self, answer: Answer) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = answer.json
            state_of(record)
        except (ValueError, KeyError, TypeError):
            self.found(answer, "no record")
            return None
        return record

    def stale(self, history: History, answer: Answer, state: State | None) -> None:
        """It was so once. A finding without an excuse."""
        why = excused(self.caller.weather, history, answer)
        if why is None:
            since_s = answer.began_s - history.acknowledged_at_s
            self.found(answer, f"stale by {since_s:.1f} s: read {state}, it is {history.possible}")
        else:
            said = "said" if "x-artstore-degraded" in answer.headers else "not said"
            self.caller.findings.counts[f"stale, excused by {why}, {said}"] += 1

    def found(self, answer: Answer, what: str) -> None:
        telling = ("x-artstore", "x-request", "idempotent")
        headers = {name: value for name, value in answer.headers.items() if name.startswith(telling)}
        said = f"{answer.instance} answered {answer.status} {headers} {answer.body[:300]!r}"
        self.caller.findings.add(answer.ended_s, f"{what}: {said}")


def is_running(answer: Answer) -> bool:
    """Another try under the same key is."""
    return answer.status == 409 and answer.json.get("code") == "idempotency_key_in_use"


def cannot_be_told(answer: Answer) -> bool:
    """True if an earlier attempt under the same key was applied and the file has changed since."""
    return answer.status == 409 and answer.json.get("code") == "conflict"


def state_of(record: dict[str, Any]) -> State:
    return State(record["revision"], record["checksum"].removeprefix("sha256:"), record["metadata"]["label"])
