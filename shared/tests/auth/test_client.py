"""A module's own token over a real socket: kept while admin is away, and an admin that fails is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from pydantic import SecretStr

from artstore.auth.client import ServiceTokens
from artstore.clock import Clock
from artstore.config import AdminClientSettings
from artstore.contracts.tokens import TokenAnswer
from artstore.errors import ADMIN, ArtStoreError, BadGateway, Unauthenticated, Unavailable
from artstore.metrics import new_registry
from artstore.peers.breaker import Breaker, Breakers
from artstore.peers.faults import PeerFault

LIMIT = 5


class Moving(Clock):
    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


@dataclass
class Admin:
    """`error` is its answer while it is set."""

    error: ArtStoreError | None = None
    asked: int = 0
    url: str = ""
    clock: Moving = field(default_factory=Moving)

    async def token(self, _request: web.Request) -> web.Response:
        self.asked += 1
        if self.error is not None:
            return web.Response(status=self.error.status, body=self.error.to_wire())
        return web.Response(body=msgspec.json.encode(TokenAnswer(access_token=f"token {self.asked}")))


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    made, app = Admin(), web.Application()
    app.router.add_post("/api/auth/token", made.token)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
def breaker() -> Breaker:
    return Breakers(new_registry(), limit=LIMIT).to(ADMIN, (PeerFault,))


@pytest.fixture
async def tokens(admin: Admin, breaker: Breaker) -> AsyncIterator[ServiceTokens]:
    settings = AdminClientSettings(
        admin_url=admin.url,
        service_client_id="query",
        service_client_secret=SecretStr("x" * 43),
    )
    async with aiohttp.ClientSession() as session:
        yield ServiceTokens(settings, session, admin.clock, breaker)


async def test_a_token_is_renewed_at_half_its_life_and_kept_to_its_end_while_admin_is_away(
    admin: Admin, tokens: ServiceTokens
) -> None:
    assert [await tokens(), await tokens()] == ["token 1", "token 1"]
    admin.error = Unavailable("PostgreSQL is away", away="database")
    admin.clock.now_s = 1000
    assert await tokens() == "token 1"
    admin.clock.now_s = 1796
    with pytest.raises(Unavailable):
        await tokens()


async def test_an_admin_that_fails_is_asked_no_more_and_the_breaker_says_so(
    admin: Admin, tokens: ServiceTokens, breaker: Breaker
) -> None:
    admin.error = Unavailable("broken")
    for _ in range(LIMIT + 3):
        with pytest.raises(Unavailable):
            await tokens()
    assert (admin.asked, breaker.state_number) == (LIMIT, 2)
    admin.error = None
    breaker.heal()
    assert await tokens() == f"token {LIMIT + 1}"


@pytest.mark.parametrize(
    ("error", "raised"),
    [(Unauthenticated(), BadGateway), (Unavailable("PostgreSQL is away", away="database"), Unavailable)],
)
async def test_a_peer_that_answers_is_available(
    admin: Admin, tokens: ServiceTokens, breaker: Breaker, error: ArtStoreError, raised: type[ArtStoreError]
) -> None:
    admin.error = error
    for _ in range(LIMIT + 3):
        with pytest.raises(raised):
            await tokens()
    assert breaker.closed


def settings_of(admin: Admin, folder: Path, client_id: str = "query") -> AdminClientSettings:
    return AdminClientSettings(
        admin_url=admin.url,
        service_client_id=client_id,
        service_client_secret=SecretStr("x" * 43),
        kept_token_file=folder / "token.json",
    )


async def test_a_module_that_starts_while_admin_is_away_goes_on_with_the_token_it_had(
    admin: Admin, breaker: Breaker, tmp_path: Path
) -> None:
    settings = settings_of(admin, tmp_path)
    async with aiohttp.ClientSession() as session:
        assert await ServiceTokens(settings, session, admin.clock, breaker)() == "token 1"
        assert (tmp_path / "token.json").stat().st_mode & 0o777 == 0o600
        admin.error = Unavailable("PostgreSQL is away", away="database")
        again = ServiceTokens(settings, session, admin.clock, breaker)
        assert await again() == "token 1"
        admin.clock.now_s += 1801
        with pytest.raises(Unavailable):
            await again()


async def test_a_kept_token_is_renewed_at_the_first_call(admin: Admin, breaker: Breaker, tmp_path: Path) -> None:
    settings = settings_of(admin, tmp_path)
    async with aiohttp.ClientSession() as session:
        await ServiceTokens(settings, session, admin.clock, breaker)()
        again = ServiceTokens(settings, session, admin.clock, breaker)
        assert await again() == "token 1"
        async with asyncio.timeout(60):
            while await again() != "token 2":
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"client_id":"query"}', None, b"expired"])
async def test_a_kept_token_that_cannot_hold_is_not_used(
    admin: Admin, breaker: Breaker, tmp_path: Path, content: bytes | None
) -> None:
    settings = settings_of(admin, tmp_path)
    async with aiohttp.ClientSession() as session:
        await ServiceTokens(settings_of(admin, tmp_path, "other"), session, admin.clock, breaker)()
        if content == b"expired":
            content = b'{"client_id":"query","access_token":"old","expires_at_s":%f}' % admin.clock.unix_s()
        if content is not None:  # else the token of another account
            (tmp_path / "token.json").write_bytes(content)
        admin.error = Unavailable("PostgreSQL is away", away="database")
        with pytest.raises(Unavailable):
            await ServiceTokens(settings, session, admin.clock, breaker)()


async def test_a_kept_token_that_a_peer_refuses_is_thrown_away(admin: Admin, breaker: Breaker, tmp_path: Path) -> None:
    settings = settings_of(admin, tmp_path)
    async with aiohttp.ClientSession() as session:
        await ServiceTokens(settings, session, admin.clock, breaker)()
        again = ServiceTokens(settings, session, admin.clock, breaker)
        again.invalidate("token 1")
        assert await again() == "token 2"
