"""Calls to another module over real sockets: errors keep their type, faults become Unavailable, nothing hangs or leaks."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web

from artstore.errors import (
    ArtStoreError,
    BadGateway,
    Forbidden,
    ModeForbids,
    NotFound,
    Overloaded,
    RateLimited,
    StorageFull,
    Unauthenticated,
    Unavailable,
)
from artstore.logs import request_id
from artstore.metrics import new_registry
from artstore.peers import pools
from artstore.peers.breaker import Breakers
from artstore.peers.client import Peer
from artstore.peers.session import open_peers


class Token:
    """A token that may be refused, after which a new one is issued."""

    def __init__(self) -> None:
        self.number = 1

    async def __call__(self) -> str:
        return f"token-{self.number}"

    def invalidate(self, token: str) -> None:
        if token == f"token-{self.number}":
            self.number += 1


class Other:
    """Another module that does what its name says."""

    def __init__(self) -> None:
        self.seen: list[web.BaseRequest] = []
        self.received = b""
        self.hangs = False

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        answer = getattr(self, request.path.rpartition("/")[2])
        made: web.StreamResponse = await answer(request)
        return made

    async def fine(self, _request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"fine", headers={"X-Name": "value"})

    async def refuses(self, request: web.BaseRequest) -> web.Response:
        errors = {
            cls.code: cls for cls in (NotFound, ModeForbids, StorageFull, Forbidden, RateLimited, Unauthenticated)
        }
        error = errors[request.query["code"]]("said so", element="se-01")
        return web.Response(status=error.status, body=error.to_wire())

    async def wants_a_later_token(self, request: web.BaseRequest) -> web.Response:
        token = request.headers["authorization"].removeprefix("Bearer ")
        if token == "token-1":
            return web.Response(status=401, body=Unauthenticated().to_wire())
        return web.Response(body=token.encode())

    async def fails(self, _request: web.BaseRequest) -> web.Response:
        return web.Response(status=500, body=b"<html>")

    async def sends_elsewhere(self, _request: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={"location": "/fine"})

    async def live(self, _request: web.BaseRequest) -> web.Response:
        """GET /health/live, answered unless the process hangs."""
        if self.hangs:
            await asyncio.Event().wait()
        return web.Response(body=b"{}")

    async def sleeps(self, _request: web.BaseRequest) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async def stalls(self, request: web.BaseRequest) -> web.StreamResponse:
        status = int(request.query.get("status", "200"))
        answer = web.StreamResponse(status=status, headers={"content-length": "100"})
        await answer.prepare(request)
        await answer.write(b"x")
        await asyncio.Event().wait()
        return answer

    async def breaks(self, request: web.BaseRequest) -> web.StreamResponse:
        status = int(request.query.get("status", "200"))
        answer = web.StreamResponse(status=status, headers={"content-length": "100"})
        await answer.prepare(request)
        await answer.write(b"x")
        if request.transport is not None:
            request.transport.close()
        return answer

    async def hangs_up_on_the_second(self, request: web.BaseRequest) -> web.Response:
        """As when the connection is reset under a request that was taken."""
        if len(self.seen) == 2 and request.transport is not None:
            request.transport.abort()
        return web.Response(body=b"fine")

    async def hangs_up(self, request: web.BaseRequest) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def takes(self, request: web.BaseRequest) -> web.Response:
        try:
            self.received = await request.content.read()
        except (web.RequestPayloadError, asyncio.CancelledError):
            self.received = b"broken off"
            raise
        return web.Response(status=201, body=str(len(self.received)).encode())


@asynccontextmanager
async def serving(other: Other, breakers: Breakers | None = None) -> AsyncIterator[Peer]:
    runner = web.ServerRunner(web.Server(other.handle, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    breakers = breakers or Breakers(new_registry())
    try:
        async with open_peers(breakers, lambda _session: Token()) as peers:
            yield peers.to("other", f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


@pytest.fixture
def other() -> Other:
    return Other()


@pytest.fixture
async def peer(other: Other) -> AsyncIterator[Peer]:
    async with serving(other) as opened:
        yield opened


async def test_a_call_brings_the_answer_and_takes_token_and_request_id_along(peer: Peer, other: Other) -> None:
    marked = request_id.set("request-7")
    try:
        answer = await peer.call("POST", "/fine", body=b"{}", params={"a": "я"}, timeout_s=5)
    finally:
        request_id.reset(marked)
    assert (answer.status, answer.body, answer.headers["x-name"]) == (200, b"fine", "value")
    sent = other.seen[0]
    assert sent.headers["authorization"] == "Bearer token-1"
    assert sent.headers["x-request-id"] == "request-7"
    assert sent.query["a"] == "я"


@pytest.mark.parametrize("cls", [NotFound, ModeForbids, StorageFull])
async def test_a_refusal_is_raised_as_what_it_was(peer: Peer, cls: type[ArtStoreError]) -> None:
    with pytest.raises(cls) as caught:
        await peer.call("GET", "/refuses", params={"code": cls.code}, timeout_s=5)
    assert type(caught.value) is cls
    assert caught.value.detail == "said so"
    assert caught.value.fields == {"element": "se-01"}


@pytest.mark.parametrize("cls", [Forbidden, RateLimited, Unauthenticated])
async def test_that_we_are_not_trusted_is_not_the_callers_fault(peer: Peer, cls: type[ArtStoreError]) -> None:
    with pytest.raises(BadGateway):
        await peer.call("GET", "/refuses", params={"code": cls.code}, timeout_s=5)


async def test_a_token_that_was_taken_back_is_replaced_by_another(peer: Peer, other: Other) -> None:
    assert (await peer.call("GET", "/wants_a_later_token", timeout_s=5)).body == b"token-2"
    assert [request.headers["authorization"] for request in other.seen] == ["Bearer token-1", "Bearer token-2"]


async def test_redirects_are_not_followed_with_a_token(peer: Peer, other: Other) -> None:
    assert (await peer.call("GET", "/sends_elsewhere", timeout_s=5)).status == 302
    assert [request.path for request in other.seen] == ["/sends_elsewhere"]


@pytest.mark.parametrize(
    "path",
    [
        "/sleeps",
        "/stalls",
        "/breaks",
        "/stalls?status=404",
        "/breaks?status=404",
        "/stalls?status=500",
        "/breaks?status=500",
    ],
)
async def test_whatever_happens_on_the_way_is_an_error_of_ours_in_time(peer: Peer, path: str) -> None:
    async with asyncio.timeout(120):
        with pytest.raises(ArtStoreError):
            await peer.call("GET", path, timeout_s=0.3)


async def test_faults_open_the_breaker_and_refusals_do_not(other: Other) -> None:
    breakers = Breakers(new_registry(), limit=2, open_s=60)
    async with serving(other, breakers) as peer:
        for _ in range(5):
            with pytest.raises(StorageFull):
                await peer.call("GET", "/refuses", params={"code": "storage_full"}, timeout_s=5)
        for _ in range(5):
            with pytest.raises(ArtStoreError):
                await peer.call("GET", "/fails", timeout_s=5)
        assert len(other.seen) == 5 + 2
        with pytest.raises(Unavailable) as caught:
            await peer.call("GET", "/fine", timeout_s=5)
        assert caught.value.fields["away"] == "other"


async def test_a_refused_connection_is_unavailable(other: Other) -> None:
    async with serving(other) as peer:
        pass
    async with open_peers(Breakers(new_registry()), lambda _session: Token()) as peers:
        with pytest.raises(Unavailable):
            await peers.to("nobody", peer.url).call("GET", "/fine", timeout_s=5)


async def pieces(count: int, *, fail_at: int = -1) -> AsyncIterator[bytes]:
    for number in range(count):
        if number == fail_at:
            raise NotFound("the source has gone")
        yield b"x" * 65536


@pytest.mark.parametrize("size", [65536 * 40, None])
async def test_an_upload_arrives_whole(peer: Peer, other: Other, size: int | None) -> None:
    answer = await peer.upload("PUT", "/takes", chunks=pieces(40), size_bytes=size, headers={}, idle_timeout_s=5)
    assert (answer.status, answer.body) == (201, str(65536 * 40).encode())


async def test_an_upload_whose_source_fails_is_never_taken_for_whole(peer: Peer, other: Other) -> None:
    for size in (65536 * 40, None):
        with pytest.raises(NotFound):
            await peer.upload(
                "PUT", "/takes", chunks=pieces(40, fail_at=20), size_bytes=size, headers={}, idle_timeout_s=5
            )
        async with asyncio.timeout(120):
            while other.received != b"broken off":
                await asyncio.sleep(0.01)
        other.received = b""


async def test_an_upload_without_a_receiver_ends(peer: Peer) -> None:
    async with asyncio.timeout(120):
        with pytest.raises(Unavailable):
            await peer.upload("PUT", "/sleeps", chunks=pieces(400), size_bytes=None, headers={}, idle_timeout_s=0.3)


async def test_a_peer_that_takes_no_body_opens_its_breaker_and_a_caller_that_leaves_does_not(other: Other) -> None:
    async with serving(other, Breakers(new_registry(), limit=2, open_s=60)) as peer:

        async def send() -> None:
            await peer.upload("PUT", "/sleeps", chunks=pieces(400), size_bytes=None, headers={}, idle_timeout_s=0.3)

        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await send()
        assert peer.breaker.closed
        for _ in range(2):
            with pytest.raises(Unavailable):
                await send()
        assert peer.breaker.refuses


async def test_a_refusal_before_the_body_is_taken_is_the_answer(peer: Peer) -> None:
    async with asyncio.timeout(120):
        with pytest.raises((ModeForbids, Unavailable)):
            await peer.upload(
                "PUT",
                "/refuses?code=mode_forbids",
                chunks=pieces(4),
                size_bytes=65536 * 4,
                headers={},
                idle_timeout_s=5,
            )


async def test_a_stream_that_breaks_or_stalls_is_unavailable(peer: Peer) -> None:
    for path in ("/breaks", "/stalls"):
        async with asyncio.timeout(120):
            with pytest.raises(Unavailable):
                async with peer.stream(path, idle_timeout_s=0.3) as response:
                    await response.read()


@pytest.mark.parametrize(("method", "times"), [("GET", 3), ("DELETE", 2), ("PUT", 2), ("PATCH", 2)])
async def test_a_change_whose_answer_is_lost_is_not_sent_again(method: str, times: int) -> None:
    """The repeat of a delete would be answered 404, though it was made."""
    other = Other()
    async with serving(other) as peer:
        await peer.call(method, "/hangs_up_on_the_second", timeout_s=5)
        if method == "GET":
            await peer.call(method, "/hangs_up_on_the_second", timeout_s=5)
        else:
            with pytest.raises(Unavailable):
                await peer.call(method, "/hangs_up_on_the_second", body=b"{}", timeout_s=5)
    assert len(other.seen) == times


async def test_a_pooled_connection_does_not_remember_the_patience_of_the_answer_before() -> None:
    """The library sometimes starts its timer anew when the rest of a large answer is read, and then never stops it."""
    async with serving(Other()) as peer:
        async with peer.stream("/fine", idle_timeout_s=0.2) as response:
            await response.content.read()
        assert peer.session.connector is not None
        [pooled] = peer.session.connector._conns.values()
        pooled[0][0].start_timeout()
        await asyncio.sleep(0.4)
        async with peer.stream("/fine", idle_timeout_s=0.2) as response:
            assert await response.content.read() == b"fine"


async def test_a_wait_for_a_slot_is_this_services_own_load_and_neither_kind_waits_for_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "MAX_TRANSFERS", 3)
    monkeypatch.setattr(pools, "SLOT_WAIT_S", 0.1)
    async with serving(Other(), Breakers(new_registry(), limit=1)) as peer:
        async with AsyncExitStack() as opened:
            for _ in range(3):
                await opened.enter_async_context(peer.stream("/stalls", idle_timeout_s=30))
            for _ in range(8):
                with pytest.raises(Overloaded) as caught:
                    await opened.enter_async_context(peer.stream("/fine", idle_timeout_s=30))
                assert caught.value.retry_after_s == 5
                assert "away" not in caught.value.fields
            assert (await peer.call("GET", "/fine", timeout_s=5)).body == b"fine"
            assert peer.breaker.closed
        async with peer.stream("/fine", idle_timeout_s=30) as response:
            assert await response.read() == b"fine"


async def test_a_peer_that_hangs_is_given_up_long_before_the_timeout_of_the_call() -> None:
    other = Other()
    other.hangs = True
    async with serving(other) as peer, asyncio.timeout(60):
        waiting = [
            peer.call("GET", "/sleeps", timeout_s=600),
            peer.upload("PUT", "/sleeps", chunks=pieces(400), size_bytes=None, headers={}, idle_timeout_s=600),
        ]
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, Unavailable)


async def test_a_peer_that_is_slow_but_alive_is_waited_for() -> None:
    other = Other()
    async with serving(other) as peer:
        asked = asyncio.ensure_future(peer.call("GET", "/sleeps", timeout_s=600))
        async with asyncio.timeout(60):
            while not any(request.path == "/health/live" for request in other.seen):
                await asyncio.sleep(0.05)
        assert not asked.done()
        asked.cancel()
        await asyncio.wait({asked})


async def test_a_failure_of_the_bodys_writer_is_reported_to_the_caller_only(peer: Peer) -> None:
    """The library's task for the body fails at the 100-continue or at the end of the body, where its result is not awaited."""
    unretrieved: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unretrieved.append(context))
    for headers in ({"expect": "100-continue"}, {}):
        for path in ("/hangs_up", "/refuses?code=mode_forbids"):
            with pytest.raises(ArtStoreError):
                await peer.upload("PUT", path, chunks=pieces(4), size_bytes=None, headers=headers, idle_timeout_s=5)
    gc.collect()
    await asyncio.sleep(0)
    assert unretrieved == []
