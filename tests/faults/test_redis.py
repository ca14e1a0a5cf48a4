"""Redis under running services: it goes and comes back, and a stranger writes to it. Limits and keys hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from redis import Redis
from support.fleet import Fleet, eventually, running_fleet

from artstore.auth.keys import sign_jwks
from artstore.contracts.tokens import JWKS_CHANNEL, JWKS_KEY
from artstore.testing.services import start_valkey
from artstore.testing.tokens import Signer

BURST = 60
LISTED = "/api/files"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(settings={"JWKS_REFRESH_S": "1"}) as started:
        yield started


def decided(fleet: Fleet, by: str, result: str) -> float:
    page = httpx.get(f"{fleet.url('query')}/metrics", timeout=30).text
    found = re.search(rf'^rate_limit_decisions_total{{by="{by}",result="{result}"}} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def ask(fleet: Fleet, token: str) -> httpx.Response:
    return fleet.call("GET", "query", LISTED, token)


def test_limits_go_on_while_redis_is_killed_and_are_shared_again_when_it_is_back(fleet: Fleet) -> None:
    account = fleet.new_account("USER", rate_per_minute=BURST)
    token = fleet.token({name: account[name] for name in ("client_id", "client_secret")})
    before = [ask(fleet, token).status_code for _ in range(10)]
    assert set(before) == {200}
    assert decided(fleet, "redis", "let_through") > 0
    fleet.valkey.stop()
    answers = [ask(fleet, token) for _ in range(2 * BURST)]
    assert {answer.status_code for answer in answers} == {200, 429}
    # what Redis counted before is not forgotten; a second brings one more, and the machine may be slow
    assert [answer.status_code for answer in answers[: BURST // 2]].count(200) == BURST // 2
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["ratelimit-policy"] == f'"account";q={BURST};w=60;artstore-burst={BURST}'
    assert decided(fleet, "local", "refused") > 0
    fleet.valkey = start_valkey(fleet.folder, fleet.valkey.port)
    shared = decided(fleet, "redis", "let_through") + decided(fleet, "redis", "refused")

    def shared_again() -> bool:
        ask(fleet, token)
        return decided(fleet, "redis", "let_through") + decided(fleet, "redis", "refused") > shared

    eventually(shared_again)
    local = decided(fleet, "local", "let_through") + decided(fleet, "local", "refused")
    ask(fleet, token)
    assert decided(fleet, "local", "let_through") + decided(fleet, "local", "refused") == local


def test_a_key_written_to_redis_by_a_stranger_is_not_trusted(fleet: Fleet) -> None:
    """Not even while admin is away: the copy there must be signed by a key that the service knows."""
    kept, own = fleet.folder / "query-jwks.json", fleet.folder / "query-forged-jwks.json"
    eventually(kept.exists)
    own.write_bytes(kept.read_bytes())
    forger, redis = Signer(), Redis.from_url(fleet.valkey.url(3))
    redis.set(JWKS_KEY, sign_jwks(forger.jwks(), forger.kid, forger.private))
    log = fleet.folder / "query-forged.log"
    given = {"ADMIN_URL": "http://127.0.0.1:9", "REDIS_URL": fleet.valkey.url(3), "JWKS_FILE": str(own)}
    fleet.start("query-forged", given, account="query")

    def answered(token: str) -> int:
        try:
            return fleet.call("GET", "query-forged", LISTED, token).status_code
        except httpx.TransportError:
            return 0

    try:
        eventually(lambda: answered(fleet.token()) == 200)
        redis.publish(JWKS_CHANNEL, "changed")
        eventually(lambda: "signed JWKS copy refused" in log.read_text())
        assert answered(forger.token()) == 401
        assert answered(fleet.token()) == 200
    finally:
        fleet.stop("query-forged")
        redis.close()
