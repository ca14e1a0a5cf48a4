"""The head of a request over real sockets: bounded in bytes and in time, whatever pieces it comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson
import pytest
import uvicorn

from artstore.http import protocol
from artstore.http.connections import Connections
from artstore.http.head import MAX_FIELDS, MAX_HEAD_BYTES, MAX_URL_BYTES, find_head_fault
from artstore.http.protocol import Connection
from artstore.testing.services import free_port

CONNECTIONS = 20


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/authorised":
        scope["state"]["principal"] = "somebody"
    while scope["path"] != "/at-once" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    for name in ("HEAD_TIMEOUT_S", "LINGER_S", "SURPLUS_S"):
        monkeypatch.setattr(protocol, name, 0.5)
    number = free_port()
    bounded: Any = partial(Connection, open_connections=Connections(CONNECTIONS))
    config = uvicorn.Config(app, port=number, http=bounded, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield number
    server.should_exit = True
    await running


async def talk(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """The bytes received until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(120):
            return await reader.read()
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


LAST = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


async def test_a_head_that_does_not_come_to_its_end_is_given_up(port: int) -> None:
    assert await talk(port, b"GET / HTTP/1.1\r\nhost: a\r\n") == b""
    assert await talk(port) == b""


async def test_a_head_that_trickles_is_given_up_too(port: int) -> None:
    drops = [b"x-%d: 1\r\n" % number for number in range(40)]
    assert await talk(port, b"GET / HTTP/1.1\r\n", *drops, pause_s=0.05) in (b"", b"reset")


async def test_a_head_may_come_in_pieces_and_a_body_slowly(port: int) -> None:
    head = [b"POST / HTT", b"P/1.1\r\nhost: a\r\nconnec", b"tion: close\r\ncontent-length: 8\r\n\r\n"]
    body = [b"ab", b"cd", b"ef", b"gh"]
    assert (await talk(port, *head, *body, pause_s=0.2)).endswith(b"ok")


async def test_the_second_request_of_a_connection_has_its_own_time(port: int) -> None:
    first = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    assert (await talk(port, first, first, LAST, pause_s=0.3)).count(b"200 OK") == 3
    assert (await talk(port, first, b"GET / HTTP/1.1\r\nhost")).count(b"200 OK") == 1


async def test_requests_may_come_all_at_once(port: int) -> None:
    post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n" + b"x" * 60_000
    assert (await talk(port, post * 3 + b"GET / HT", b"TP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).count(
        b"200 OK"
    ) == 4


async def test_a_head_without_end_is_refused(port: int) -> None:
    answer = await talk(port, b"GET / HTTP/1.1\r\nx: ", *[b"a" * 4096] * 200)
    assert answer == b"reset" or answer.startswith(b"HTTP/1.1 431 ")


CHUNKED = b"POST %s HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"


@pytest.mark.parametrize("endless", [b"0\r\na: ", b"0\r\n", b"1;a="], ids=["trailer", "trailers", "extension"])
async def test_what_stands_around_a_body_is_bounded_too(port: int, endless: bytes) -> None:
    piece = b"b: c\r\n" * 512 if endless == b"0\r\n" else b"a" * 4096
    answer = await talk(port, CHUNKED % b"/" + endless, *[piece] * 200)
    assert answer == b"reset" or answer.startswith(b"HTTP/1.1 431 ")


async def test_trailers_say_nothing(port: int) -> None:
    trailers = b"0\r\nauthorization: Bearer x\r\nhost: b\r\n\r\n"
    assert (await talk(port, CHUNKED % b"/" + trailers, LAST)).count(b"200 OK") == 2


async def test_a_client_that_was_answered_cannot_send_for_ever(port: int) -> None:
    answer = await talk(port, CHUNKED % b"/at-once", *[b"1\r\nx\r\n"] * 40, pause_s=0.05)
    assert answer == b"reset" or answer.count(b"200 OK") == 1
    whole = CHUNKED % b"/at-once" + b"0\r\n\r\n"
    assert (await talk(port, whole, whole, LAST, pause_s=0.3)).count(b"200 OK") == 3


async def test_idle_connections_do_not_lock_out_other_clients(port: int) -> None:
    """The oldest is closed for a new one."""
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    assert b"200 OK" in await talk(port, LAST)
    async with asyncio.timeout(120):
        assert await ended(idle[0][0])
    for _, writer in idle:
        writer.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


async def test_a_connection_over_the_limit_is_refused_while_all_others_work(port: int) -> None:
    """Those with an authorised request under way are not closed for another."""
    working = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    for _, writer in working:
        writer.write(b"POST /authorised HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n")
    await asyncio.sleep(0.2)
    head, problem = problem_in(await talk(port, LAST))
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in head
    assert problem["code"] == "unavailable"
    assert await talk(port) == b""
    for reader, writer in working:
        writer.write(b"x")
        assert b"200 OK" in await reader.readline()
    assert b"200 OK" in await talk(port, LAST)
    for _, writer in working:
        writer.close()


def problem_in(answer: bytes) -> tuple[bytes, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, orjson.loads(body)


async def test_a_refusal_before_the_edge_has_an_id_too(port: int) -> None:
    head, problem = problem_in(await talk(port, b"no http at all\r\n\r\n"))
    assert head.startswith(b"HTTP/1.1 400 ")
    assert problem["request_id"]
    assert f"x-request-id: {problem['request_id']}".encode() in head


@pytest.mark.parametrize("framing", [b"content-length: 8", b"transfer-encoding: chunked"])
async def test_a_client_that_closes_only_its_own_side_in_the_middle_of_a_body_is_answered(
    port: int, framing: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nhost: a\r\n" + framing + b"\r\n\r\n3\r\n")
    await writer.drain()
    writer.write_eof()
    async with asyncio.timeout(120):
        head, problem = problem_in(await reader.read())
    writer.close()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert (problem["code"], problem["detail"]) == ("malformed", "the body was cut off")


def scope(path: bytes = b"/", query: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> dict[str, Any]:
    return {
        "method": "GET",
        "http_version": "1.0",
        "raw_path": path,
        "query_string": query,
        "headers": headers or [],
    }


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (scope(b"/" * MAX_URL_BYTES), None),
        (scope(b"/" * MAX_URL_BYTES, b"a"), 414),
        (scope(headers=[(b"a", b"")] * MAX_FIELDS), None),
        (scope(headers=[(b"a", b"")] * (MAX_FIELDS + 1)), 431),
        (scope(headers=[(b"a", b"b" * (MAX_HEAD_BYTES - 1))]), None),
        (scope(headers=[(b"a", b"b" * MAX_HEAD_BYTES)]), 431),
    ],
)
def test_the_bounds_are_exact(given: dict[str, Any], status: int | None) -> None:
    fault = find_head_fault(given)
    assert (fault and fault.status) == status
