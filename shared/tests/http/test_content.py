"""The content of a request over real sockets: received as it was sent, or refused, and then the connection ends."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn

from artstore.http import output
from artstore.http.connections import Connections
from artstore.http.protocol import Connection
from artstore.testing.services import free_port

OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAA\r\n"
INNER = b"GET /inner HTTP/1.1\r\nhost: a\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it got."""
    if scope["path"] == "/refuse":
        body, more, cut = b"", False, False
    else:
        body, more, cut = b"", True, False
    while more:
        message = await receive()
        body += message.get("body", b"")
        more, cut = message.get("more_body", False), message["type"] == "http.disconnect"
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    size = int(scope["query_string"] or 0)
    answer = orjson.dumps({"path": scope["path"], "body": body.decode("latin-1"), "cut": cut}) + b" " * size
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(answer)).encode())]}
    )
    for at in range(0, len(answer), 1 << 20):
        piece = answer[at : at + (1 << 20)]
        await send({"type": "http.response.body", "body": piece, "more_body": at + len(piece) < len(answer)})


@asynccontextmanager
async def serving(app: Any, open_connections: Connections | None = None) -> AsyncIterator[int]:
    number = free_port()
    http: Any = partial(Connection, open_connections=open_connections or Connections())
    server = uvicorn.Server(
        uvicorn.Config(app, port=number, loop="uvloop", http=http, lifespan="off", log_config=None, ws="none")
    )
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield number
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(serving(app))


async def talk(port: int, *pieces: bytes, half_close: bool = False, gap_s: float = 0.05) -> bytes:
    """All that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(gap_s)
            writer.write(piece)
            await writer.drain()
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(120):
            return await reader.read()
    finally:
        writer.close()


def post(*fields: bytes, method: bytes = b"POST", path: bytes = b"/", version: bytes = b"1.1") -> bytes:
    lines = [b"%s %s HTTP/%s" % (method, path, version), b"host: a", *(field.rstrip(b"\r\n") for field in fields)]
    return b"\r\n".join([*lines, b"", b""])


def answers(came: bytes) -> list[tuple[int, dict[str, Any], bytes]]:
    """Status, content and head of each answer."""
    found = []
    while came:
        head, _, rest = came.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status == 100:
            came = rest
            continue
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-l"))
        found.append((status, orjson.loads(rest[:length]), head.lower()))
        came = rest[length:]
    return found


LAST = b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
CHUNKED = b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize("split", [False, True], ids=["one-write", "two-writes"])
@pytest.mark.parametrize("token", [b"h2c", b"websocket", b"TLS/1.0", b"foo", b"h2c, foo"])
@pytest.mark.parametrize(
    ("framing", "content"), [(b"content-length: 5", b"hello"), (b"transfer-encoding: chunked", CHUNKED)]
)
async def test_content_behind_an_upgrade_is_received_whole(
    port: int, token: bytes, framing: bytes, content: bytes, split: bool
) -> None:
    head = post(b"connection: upgrade", b"upgrade: " + token, framing)
    pieces = [head, content, LAST] if split else [head + content + LAST]
    got = answers(await talk(port, *pieces))
    assert [(status, said["path"], said["body"]) for status, said, _ in got] == [
        (200, "/", "hello"),
        (200, "/last", ""),
    ]


@pytest.mark.parametrize("split", [False, True], ids=["one-write", "two-writes"])
@pytest.mark.parametrize("path", [b"/", b"/refuse"])
@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"GET"])
async def test_content_behind_an_upgrade_is_never_parsed_as_a_request(
    port: int, method: bytes, path: bytes, split: bool
) -> None:
    head = post(OFFER, b"content-length: %d" % len(INNER), method=method, path=path)
    pieces = [head, INNER, LAST] if split else [head + INNER + LAST]
    assert [said["path"] for _, said, _ in answers(await talk(port, *pieces))] == [path.decode(), "/last"]


async def test_large_content_behind_an_upgrade_is_received_whole(port: int) -> None:
    content = bytes(range(256)) * 8192
    came = await talk(port, post(OFFER, b"content-length: %d" % len(content)), content, LAST)
    assert answers(came)[0][1]["body"] == content.decode("latin-1")


async def test_a_request_without_content_may_offer_an_upgrade(port: int) -> None:
    got = answers(await talk(port, post(OFFER, method=b"GET") * 3 + LAST))
    assert [said["path"] for _, said, _ in got] == ["/", "/", "/", "/last"]


async def test_curl_and_java_that_offer_http2_store_their_content(port: int, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(b"\r\n\r\nGET / HTTP/1.1\r\n" * 60_000)
    command = ["curl", "-sS", "--http2", "--data-binary", f"@{content}", f"http://127.0.0.1:{port}/"]
    try:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60, check=True)
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    assert orjson.loads(done.stdout)["body"].encode("latin-1") == content.read_bytes()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
        (post(b"transfer-encoding: gzip, chunked"), 501),
        (post(b"transfer-encoding: gzip", b"transfer-encoding: chunked"), 501),
        (post(b"transfer-encoding: identity, chunked"), 501),
        (post(b"transfer-encoding: chunked, chunked"), 400),
        (post(b"transfer-encoding: xfoo,chunked"), 501),
        (post(b"transfer-encoding: gzip"), 501),
        (post(b"transfer-encoding: identity"), 501),
        (post(b"transfer-encoding: gzip, chunked", OFFER), 501),
        (post(b"transfer-encoding: gzip", method=b"DELETE"), 501),
        (post(b"transfer-encoding: chunked", b"content-length: 5"), 400),
        (post(b"content-length: 5", b"content-length: 5"), 400),
        (post(b"transfer-encoding: chunked", version=b"1.0"), 400),
        (post(version=b"1.0"), 411),
        (post(method=b"PUT", version=b"1.0"), 411),
    ],
    ids=lambda given: str(given)[:60],
)
async def test_what_cannot_be_framed_is_refused_and_nothing_behind_it_is_a_request(
    port: int, head: bytes, status: int
) -> None:
    (only,) = answers(await talk(port, head + INNER))
    assert only[0] == status
    assert b"connection: close" in only[2]


async def test_nothing_is_carried_out_for_a_head_that_is_refused() -> None:
    reached = []

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        await app(scope, receive, send)

    async with serving(noted) as port:
        await talk(port, post(b"transfer-encoding: gzip", method=b"DELETE"))
        await talk(port, post(b"transfer-encoding: chunked, gzip", method=b"DELETE"))
        await talk(port, b'POST / HTTP/1.1\r\nhost: a\r\n\r\n{"grace_s":0}')
        await talk(port, b'POST / HTTP/1.0\r\nhost: a\r\n\r\n{"grace_s":0}')
    assert reached == []


async def test_chunked_in_any_case_is_received(port: int) -> None:
    (one, _) = answers(await talk(port, post(b"transfer-encoding: Chunked") + CHUNKED + LAST))
    assert one[1]["body"] == "hello"


@pytest.mark.parametrize("delay_s", [0, 0.002, 0.05])
@pytest.mark.parametrize(
    "request_",
    [
        post(b"content-length: 5", path=b"/slow") + b"hello",
        post(b"transfer-encoding: chunked", path=b"/slow") + CHUNKED,
        post(b"content-length: 5", OFFER, path=b"/slow") + b"hello",
        post(method=b"GET", path=b"/slow?5000000"),
        post(method=b"GET", path=b"/slow") * 5,
        post(b"content-length: 300000", path=b"/slow") + b"a" * 300_000 + post(method=b"GET", path=b"/slow"),
    ],
    ids=["length", "chunked", "upgrade", "large-answer", "pipelined", "large-then-another"],
)
async def test_a_client_that_shut_down_its_sending_side_is_answered_in_full(
    port: int, request_: bytes, delay_s: float
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_)
    await writer.drain()
    await asyncio.sleep(delay_s)
    writer.write_eof()
    async with asyncio.timeout(120):
        got = answers(await reader.read())
    writer.close()
    assert [(status, said["cut"]) for status, said, _ in got] == [(200, False)] * request_.count(b" HTTP/1.1")


@pytest.mark.parametrize(
    "cut", [post(b"content-length: 5") + b"hell", post(b"content-length: 5", OFFER) + b"hell", post(OFFER)[:-4]]
)
async def test_a_request_that_is_cut_off_is_refused(port: int, cut: bytes) -> None:
    (only,) = answers(await talk(port, cut, half_close=True))
    assert (only[0], only[1]["code"]) == (400, "malformed")


EXPECTING = post(b"expect: 100-continue", b"content-length: 5", path=b"/refuse")


async def test_a_refused_expectation_ends_the_connection_at_once(port: int) -> None:
    """Whatever the client sends behind it, content or a request, is not answered by mistake."""
    (only,) = answers(await talk(port, EXPECTING, INNER))
    assert (only[0], only[1]["path"]) == (200, "/refuse")
    assert b"connection: close" in only[2]


async def test_a_met_expectation_keeps_the_connection(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(b"expect: 100-Continue", b"content-length: 5"))
    async with asyncio.timeout(120):
        assert b"100 Continue" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"hello" + LAST)
        got = answers(await reader.read())
    writer.close()
    assert [said["body"] for _, said, _ in got] == ["hello", ""]


async def test_no_100_for_http_1_0_nor_where_no_content_is_to_come(port: int) -> None:
    old = post(b"expect: 100-continue", b"content-length: 5", version=b"1.0")
    assert b" 100 " not in await talk(port, old, b"hello")
    assert b" 100 " not in await talk(port, post(b"expect: 100-continue", b"content-length: 5") + b"hello" + LAST)
    assert b" 100 " not in await talk(port, post(b"expect: 100-continue", method=b"GET") + LAST)


async def test_an_early_answer_is_not_lost_while_the_client_goes_on_sending(port: int) -> None:
    content = b"x" * 20_000_000
    came = await talk(port, post(b"content-length: %d" % len(content), path=b"/refuse"), content)
    (only,) = answers(came)
    assert only[0] == 200
    assert b"connection: close" in only[2]


async def test_short_content_behind_an_early_answer_does_not_end_the_connection(port: int) -> None:
    got = answers(await talk(port, post(b"content-length: 5", path=b"/refuse"), b"hello" + LAST))
    assert [said["path"] for _, said, _ in got] == ["/refuse", "/last"]


@pytest.mark.parametrize("pieces", [1, 7])
async def test_pipelined_requests_are_answered_in_order_and_kept_apart(port: int, pieces: int) -> None:
    one = post(b"transfer-encoding: chunked") + b"4\r\n\r\n\r\n\r\n0\r\nx: y\r\n\r\n"
    two = post(b"content-length: 8") + b"\r\n\r\n\r\n\r\n"
    sent = (one + two + post(method=b"GET")) * 50 + LAST
    step = len(sent) // pieces + 1
    got = answers(await talk(port, *[sent[at : at + step] for at in range(0, len(sent), step)]))
    assert [said["body"] for _, said, _ in got] == ["\r\n\r\n", "\r\n\r\n\r\n\r\n", ""] * 50 + [""]


async def test_a_request_in_single_bytes_is_received(port: int) -> None:
    sent = post(OFFER, b"transfer-encoding: chunked") + CHUNKED + post(b"content-length: 2") + b"ab" + LAST
    got = answers(await talk(port, *[bytes([byte]) for byte in sent], gap_s=0))
    assert [said["body"] for _, said, _ in got] == ["hello", "ab", ""]


async def test_an_answer_that_is_not_taken_ends(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "STALL_S", 0.3)
    for request in (post(method=b"GET", path=b"/?50000000"), post(method=b"GET", path=b"/?100000") * 2000):
        _reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(request)
        async with asyncio.timeout(120):
            await find_reset(writer)
        writer.close()


async def find_reset(writer: asyncio.StreamWriter) -> None:
    """Sends until the connection is gone: a client that does not read sees it no other way."""
    try:
        while True:
            writer.write(b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
    except ConnectionError:
        return


async def test_an_answer_that_is_taken_slowly_does_not_end(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "STALL_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)
    writer.write(post(b"connection: close", method=b"GET", path=b"/?8000000"))
    came = 0
    async with asyncio.timeout(120):
        while piece := await reader.read(262144):
            came += len(piece)
            await asyncio.sleep(0.05)
    writer.close()
    assert came > 8_000_000
