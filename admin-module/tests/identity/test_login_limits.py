"""Logins are limited by account: wrong ones wherever they come from, right ones because each costs a signature."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

FAILURES = 5 * 5
"""FAILURES_OF_ACCOUNT times the setting below."""


async def log_in(client: httpx.AsyncClient, client_id: str, secret: str, address: str) -> httpx.Response:
    given = {"client_id": client_id, "client_secret": secret}
    return await client.post("/api/auth/token", json=given, headers={"x-forwarded-for": address})


async def test_guessing_from_many_addresses_does_not_lock_the_owner_out(admin: Any, second_admin: Any) -> None:
    other = await second_admin(TRUSTED_PROXIES="127.0.0.1", IP_BLOCK_AFTER_FAILURES="5", IP_BLOCK_S="600")
    wanted = {"client_id": "guessed-at", "role": "USER", "rate_per_minute": 60}
    account = (await admin.call("POST", "/api/service-accounts", json=wanted)).json()

    async def guess(client_id: str, addresses: list[str]) -> list[httpx.Response]:
        return await asyncio.gather(*(log_in(other, client_id, "wrong", address) for address in addresses))

    many = [f"198.51.100.{number}" for number in range(4 * FAILURES)]
    for client_id in ("guessed-at", "not-there"):
        answers = await guess(client_id, many)
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(401) >= FAILURES
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert set(statuses) == {401, 429}
    right = await log_in(other, "guessed-at", account["client_secret"], "203.0.113.200")
    assert right.status_code == 200
    # an address that is blocked for its failures is answered 429, and still lets the owner in
    assert {answer.status_code for answer in await guess("guessed-at", ["203.0.113.201"] * 30)} == {401, 429}
    assert (await log_in(other, "guessed-at", "wrong", "203.0.113.201")).status_code == 429
    assert (await log_in(other, "guessed-at", account["client_secret"], "203.0.113.201")).status_code == 200
    await other.aclose()


async def test_module_accounts_have_a_login_limit_too(admin: Any, second_admin: Any) -> None:
    other = await second_admin(RATE_LIMIT_PER_MINUTE="6", RATE_LIMIT_BURST="5")
    answers = [await log_in(other, "se-02", "s" * 43, "127.0.0.1") for _ in range(8)]
    assert [answer.status_code for answer in answers].count(200) in (5, 6)
    assert (answers[-1].status_code, answers[-1].headers["cache-control"]) == (429, "no-store")
    await other.aclose()
