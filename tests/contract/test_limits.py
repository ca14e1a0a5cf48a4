"""Rate limits over HTTP, on running services behind a proxy that this test plays."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest
from support.system import System

OPEN = ("/health/live", "/health/ready", "/metrics", "/openapi.json")
BURST, PER_SECOND = 150, 100 / 60


def new_token(system: System, client: httpx.Client, **wanted: object) -> str:
    answer = client.post(f"{system.url('admin')}/api/service-accounts", json={"role": "USER", **wanted})
    return system.token(answer.json()["client_id"], answer.json()["client_secret"])


def drain(caller: httpx.Client, url: str, most: int) -> tuple[int, httpx.Response]:
    """How many requests were let through before the first that was not, and that one's answer (or the last)."""
    for passed in range(most):
        answer = caller.get(url)
        if answer.status_code == 429:
            return passed, answer
    return most, answer


def is_refused(caller: httpx.Client, url: str, method: str = "GET", **options: Any) -> bool:
    """Within a few requests: the limit refills while a slow machine asks."""
    return any(caller.request(method, url, **options).status_code == 429 for _ in range(200))


def test_an_account_has_its_burst_and_then_its_rate(system: System, client: httpx.Client) -> None:
    with system.client(new_token(system, client)) as caller:
        began_s = time.monotonic()
        first = caller.get(f"{system.url('query')}/api/files")
        passed, refused = drain(caller, f"{system.url('query')}/api/files", 1000)
        refilled = (time.monotonic() - began_s) * PER_SECOND
        assert BURST <= passed + 1 <= BURST + refilled + 1
        assert first.headers["ratelimit-policy"] == '"account";q=100;w=60;artstore-burst=150'
        assert re.fullmatch(r'"account";r=149;t=[12]', first.headers["ratelimit"])
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "rate_limited"
        assert refused.headers["ratelimit"].startswith('"account";r=0;t=')
        assert refused.headers["retry-after"] == "1"
        # all services share the account's limit
        assert is_refused(caller, f"{system.url('ingester')}/api/files/00000000-0000-7000-8000-000000000000", "PATCH")
        time.sleep(int(refused.headers["retry-after"]))
        assert caller.get(f"{system.url('query')}/api/files").status_code == 200


def test_an_account_may_have_a_rate_of_its_own(system: System, client: httpx.Client) -> None:
    with system.client(new_token(system, client, rate_per_minute=6)) as caller:
        passed, refused = drain(caller, f"{system.url('query')}/api/files", 100)
        assert passed in (9, 10)
        assert refused.headers["ratelimit-policy"] == '"account";q=6;w=60;artstore-burst=9'
        assert 8 <= int(refused.headers["retry-after"]) <= 10
    with system.client(new_token(system, client, rate_per_minute=60_000)) as caller:
        assert drain(caller, f"{system.url('query')}/api/files", 400)[0] == 400


def test_modules_are_not_limited(system: System) -> None:
    secret = (system.keys / "query.secret").read_text()
    with system.client(system.token("query", secret)) as caller:
        passed, last = drain(caller, f"{system.url('se-01')}/api/element", 400)
        assert passed == 400
        assert "ratelimit" not in last.headers


@pytest.mark.parametrize("service", ["admin", "se-01", "ingester", "query"])
def test_health_metrics_and_description_are_never_limited(system: System, service: str) -> None:
    with httpx.Client(headers={"x-forwarded-for": "203.0.113.1"}, timeout=120) as stranger:
        for path in OPEN:
            assert drain(stranger, system.url(service) + path, 50)[0] == 50  # of all four together, from one address


def test_unauthenticated_requests_are_limited_by_address_before_authentication(system: System) -> None:
    url = f"{system.url('admin')}/.well-known/jwks.json"
    with httpx.Client(headers={"x-forwarded-for": "198.51.100.200, 203.0.113.2"}, timeout=120) as stranger:
        first = stranger.get(url)
        assert first.headers["ratelimit-policy"] == '"address";q=1200;w=60;artstore-burst=600'
        passed, refused = drain(stranger, url, 5000)
        assert 500 < passed < 5000
        assert refused.headers["retry-after"] == "1"
        # what the stranger wrote in front of what the proxy wrote does not help
        assert is_refused(stranger, url, headers={"x-forwarded-for": "192.0.2.77, 203.0.113.2"})
        assert stranger.get(url, headers={"x-forwarded-for": "203.0.113.3"}).status_code == 200


def test_a_token_on_a_public_path_does_not_authenticate_the_caller(system: System) -> None:
    url = f"{system.url('admin')}/.well-known/jwks.json"
    shown = {"x-forwarded-for": "203.0.113.9", "authorization": "Bearer no.such.token"}
    with httpx.Client(headers=shown, timeout=120) as stranger:
        passed, refused = drain(stranger, url, 5000)
        assert 500 < passed < 5000
        assert refused.headers["retry-after"] == "1"
        assert is_refused(stranger, f"{system.url('admin')}/no/such/thing")
        wrong = {"client_id": "admin", "client_secret": "?"}
        assert is_refused(stranger, f"{system.url('admin')}/api/auth/token", "POST", json=wrong)


def test_right_logins_do_not_use_up_the_address(system: System) -> None:
    with httpx.Client(headers={"x-forwarded-for": "203.0.113.4"}, timeout=120) as caller:
        for _ in range(40):
            answer = caller.post(f"{system.url('admin')}/api/auth/token", json=system.credentials())
            assert answer.status_code == 200
        left = int(re.findall(r"r=(\d+)", answer.headers["ratelimit"])[0])
        assert left >= 590


def test_right_logins_are_limited_by_account_and_do_not_count_as_its_requests(
    system: System, client: httpx.Client
) -> None:
    account = client.post(
        f"{system.url('admin')}/api/service-accounts", json={"role": "USER", "rate_per_minute": 6}
    ).json()
    credentials = {name: account[name] for name in ("client_id", "client_secret")}
    with httpx.Client(headers={"x-forwarded-for": "203.0.113.8"}, timeout=120) as caller:
        answers = [caller.post(f"{system.url('admin')}/api/auth/token", json=credentials) for _ in range(12)]
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) in (9, 10)
    assert statuses[-1] == 429
    assert answers[-1].headers["cache-control"] == "no-store"
    assert 8 <= int(answers[-1].headers["retry-after"]) <= 10
    with system.client(answers[0].json()["access_token"]) as caller:
        assert drain(caller, f"{system.url('query')}/api/files", 100)[0] in (9, 10)


def test_the_audit_log_names_the_address_that_the_proxy_names(system: System, client: httpx.Client) -> None:
    address = "2001:db8:7::42"
    with httpx.Client(headers={"x-forwarded-for": address}, timeout=120) as stranger:
        assert stranger.get(f"{system.url('query')}/api/files").status_code == 401
        wrong = {"client_id": "admin", "client_secret": "?"}
        assert stranger.post(f"{system.url('admin')}/api/auth/token", json=wrong).status_code == 401
    missing = {"access:denied", "auth:token"}
    for _ in range(100):
        for action in sorted(missing):
            events = client.get(f"{system.url('admin')}/api/audit", params={"action": action, "result": "denied"})
            if address in {event["metadata"].get("address") for event in events.json()["items"]}:
                missing.remove(action)
        if not missing:
            break
        time.sleep(0.1)
    assert not missing


@pytest.mark.parametrize("how", ["token", "login"])
def test_failures_of_one_caller_are_refused_and_lock_out_no_other_behind_its_address(system: System, how: str) -> None:
    address = {"token": "203.0.113.5", "login": "203.0.113.6"}[how]
    right = {"authorization": f"Bearer {system.token()}"}
    with httpx.Client(headers={"x-forwarded-for": address}, timeout=120) as stranger:

        def fail() -> httpx.Response:
            if how == "token":
                return stranger.get(
                    f"{system.url('query')}/api/files", headers={"authorization": "Bearer no.such.token"}
                )
            return stranger.post(
                f"{system.url('admin')}/api/auth/token", json={"client_id": "admin", "client_secret": "?"}
            )

        service = "query" if how == "token" else "admin"
        statuses: list[int] = []
        while 429 not in statuses and len(statuses) < 1500:
            answer = fail()
            statuses.append(answer.status_code)
        assert statuses.count(401) >= 200
        assert statuses[-1] == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 3
        path = "/api/files" if how == "token" else "/api/storage-elements"
        for _ in range(20):
            assert fail().status_code in (401, 429), "401 once the block has ended"
            assert stranger.get(system.url(service) + path, headers=right).status_code == 200
            assert stranger.post(f"{system.url('admin')}/api/auth/token", json=system.credentials()).status_code == 200


def test_requests_without_a_token_lock_out_no_login_behind_their_address(system: System) -> None:
    with httpx.Client(headers={"x-forwarded-for": "203.0.113.11"}, timeout=120) as caller:
        assert is_refused_at_last(caller, f"{system.url('admin')}/.well-known/jwks.json")
        for _ in range(20):
            assert caller.post(f"{system.url('admin')}/api/auth/token", json=system.credentials()).status_code == 200
            caller.get(f"{system.url('admin')}/.well-known/jwks.json")


def is_refused_at_last(caller: httpx.Client, url: str) -> bool:
    return any(caller.get(url).status_code == 429 for _ in range(5000))
