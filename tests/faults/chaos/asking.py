"""One request of a client: to any instance of the module, and what of its answer breaks a promise whatever it was about."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from support.fleet import Fleet
from support.layout import kind_of

from .schedule import Kind
from .weather import Weather

GIVE_UP_S = 60.0
PROMPT_S = {"read": 25.0, "change": 35.0, "upload": 50.0, "token": 15.0}
"""The sum of the timeouts on the way, with the settings of the run's fleet, and as much again for a busy machine."""
REFUSALS = frozenset({502, 503, 507})
RETRIED = frozenset({0, 401, 408, *REFUSALS})
"""Answers that do not say what became of the request, or only that it was refused this time. 0: there was none."""
SKEW_MEMORY_S = 20.0
"""How long after a skew tokens of that time are still about."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status 0: none came, or it broke off. `sha256` and `size` are of the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes
    sha256: str
    instance: str
    began_s: float
    ended_s: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Findings:
    """Broken promises with their times, and counts of everything."""

    found: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, at_s: float, what: str) -> None:
        self.found.append(f"{at_s:6.1f} s  {what}")


async def sent_once(
    request: aiohttp.ClientRequest, send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """aiohttp would send a DELETE again when its connection breaks, and the model would not know of the first one."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(f"no answer: {error}") from error


class Caller:
    """One account's way to all instances; a token is fetched when there is none and dropped when it is refused."""

    def __init__(self, fleet: Fleet, weather: Weather, findings: Findings, account: dict[str, str], seed: str) -> None:
        self.fleet, self.weather, self.findings, self.account = fleet, weather, findings, account
        self.chance = random.Random(seed)
        self.answered = True
        """True if the last request was answered."""
        self._token = ""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=GIVE_UP_S, sock_connect=10),
            auto_decompress=False,
            middlewares=[sent_once],
        )

    async def close(self) -> None:
        await self._session.close()

    async def ask(self, what: str, method: str, module: str, path: str, **options: Any) -> Answer:
        """One try, at an instance picked at random. `what` names the limit in PROMPT_S."""
        instance = self.chance.choice([name for name in self.fleet.names if kind_of(name) == module])
        if not self._token:
            refused = await self._login()
            if refused is not None:
                return refused
        headers = {"authorization": f"Bearer {self._token}", **options.pop("headers", {})}
        answer = await self._send(instance, method, path, headers=headers, **options)
        self._judge(what, f"{method} {path}", answer)
        if answer.status == 401:
            self._token = ""
        return answer

    async def _login(self) -> Answer | None:
        """None when there is a token now."""
        instance = self.chance.choice([name for name in self.fleet.names if kind_of(name) == "admin"])
        wanted = {name: self.account[name] for name in ("client_id", "client_secret")}
        answer = await self._send(instance, "POST", "/api/auth/token", json=wanted)
        self._judge("token", "POST /api/auth/token", answer)
        if answer.status != 200:
            return (
                answer
                if answer.status in REFUSALS
                else Answer(0, {}, b"", "", instance, answer.began_s, answer.ended_s)
            )
        self._token = str(answer.json["access_token"])
        return None

    async def _send(self, instance: str, method: str, path: str, **options: Any) -> Answer:
        self.answered = False
        began_s = self.weather.now_s
        status, headers, body, hasher = 0, dict[str, str](), bytearray(), hashlib.sha256()
        try:
            async with self._session.request(method, self.fleet.front(instance) + path, **options) as answer:
                async for piece in answer.content.iter_any():
                    hasher.update(piece)
                    if len(body) < 1 << 20:
                        body += piece
                status, headers = answer.status, {name.lower(): value for name, value in answer.headers.items()}
            self.answered = status not in REFUSALS
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.findings.counts[f"unanswered {type(error).__name__}"] += 1
        return Answer(status, headers, bytes(body), hasher.hexdigest(), instance, began_s, self.weather.now_s)

    def _judge(self, what: str, request: str, answer: Answer) -> None:
        """Checks what holds for every request."""
        said = f"{request} at {answer.instance}: {answer.status} {answer.body[:300]!r}"
        took_s = answer.ended_s - answer.began_s
        self.findings.counts[f"{what} {answer.status or 'unanswered'}"] += 1
        touched = self.weather.struck(answer.began_s, answer.ended_s, targets=[answer.instance])
        hindered = [
            strike
            for strike in touched
            if strike.edge == "callers" or strike.kind in (Kind.PAUSE, Kind.KILL, Kind.SKEW, Kind.POINT)
        ]
        if took_s > PROMPT_S[what] and not hindered:
            self.findings.add(answer.ended_s, f"took {took_s:.1f} s: {said}")
        if answer.status == 0 and not touched:
            self.findings.add(answer.ended_s, f"no answer, and nothing had struck {answer.instance}: {said}")
        if answer.status in REFUSALS:
            self._judge_refusal(said, answer)
        elif answer.status >= 500 or answer.status in (400, 403, 413, 415, 422, 429):
            self.findings.add(answer.ended_s, said)
        elif answer.status == 401 and not self._skewed(answer):
            self.findings.add(answer.ended_s, f"nobody's clock was wrong: {said}")

    def _judge_refusal(self, said: str, answer: Answer) -> None:
        if not answer.headers.get("content-type", "").startswith("application/problem+json"):
            self.findings.add(answer.ended_s, f"no problem document: {said}")
        elif answer.status != 507 and not answer.headers.get("retry-after", "").isdigit():
            self.findings.add(answer.ended_s, f"without Retry-After: {said}")
        elif answer.json.get("status") != answer.status or not answer.json.get("code"):
            self.findings.add(answer.ended_s, f"a problem document that says something else: {said}")

    def _skewed(self, answer: Answer) -> bool:
        return bool(self.weather.struck(answer.began_s, answer.ended_s, kinds=[Kind.SKEW], aftermath_s=SKEW_MEMORY_S))
