"""Requests over kept connections, against a server that sends what each test wants: an answer is whole and belongs to its
request, or it is an error."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from artstore.peers import connections
from artstore.peers.addresses import GuardedResolver
from artstore.peers.connections import ConnectionLostError, PeerAnswer, PeerConnections
from artstore.peers.liveness import PendingRequests

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Name: value\r\n\r\nfine"
NOT_YET = b""
"""The server sends nothing for this request."""
CLOSE = b"close"


@dataclass
class Server:
    """For each request of a connection it sends the next of `answers`, the last one again and again."""

    answers: list[Sequence[bytes]]
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    opened: int = 0
    ended: int = 0
    port: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(
                    (head.lower() + "content-length: 0\r\n").partition("content-length: ")[2].partition("\r\n")[0]
                )
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length))
                for piece in self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]:
                    if piece == CLOSE:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended += 1
            writer.close()


@asynccontextmanager
async def serving(
    *answers: Sequence[bytes], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[Server, PeerConnections]]:
    server = Server(list(answers))
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    resolver = GuardedResolver()
    opened = PeerConnections(f"http{'s' if tls else ''}://{host}:{server.port}", resolver, connect_timeout_s=5)
    try:
        yield server, opened
    finally:
        opened.close_idle()
        listening.close()
        await resolver.close()


async def ask(
    opened: PeerConnections, method: str = "GET", body: bytes | None = None, timeout_s: float = 60, **headers: str
) -> PeerAnswer:
    return await opened.ask(method, "/x", headers, body, timeout_s=timeout_s, pending=PendingRequests())


async def test_one_connection_carries_one_request_after_the_other() -> None:
    async with serving([FINE]) as (server, opened):
        for number in range(3):
            answer = await ask(opened, "POST", b"%d" % number, name="given")
            assert (answer.status, answer.headers["x-name"], answer.body) == (200, "value", b"fine")
        assert (server.opened, server.bodies) == (1, [b"0", b"1", b"2"])
        assert (
            server.heads[0]
            == f"POST /x HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\nname: given\r\ncontent-length: 1\r\n\r\n"
        )


async def test_requests_at_once_have_connections_of_their_own_which_are_kept() -> None:
    async with serving([FINE]) as (server, opened):
        for _ in range(2):
            answers = await asyncio.gather(*(ask(opened) for _ in range(5)))
            assert [answer.body for answer in answers] == [b"fine"] * 5
        assert server.opened == 5


@pytest.mark.parametrize(
    ("pieces", "status", "body"),
    [
        ([bytes([one]) for one in FINE], 200, b"fine"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n", b"2\r\nne\r\n0\r\n\r\n"], 200, b"fine"),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", FINE], 200, b"fine"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b""),
        ([b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"], 404, b""),
    ],
)
async def test_answers_of_every_framing_are_read_whole(pieces: Sequence[bytes], status: int, body: bytes) -> None:
    async with serving(pieces) as (server, opened):
        for _ in range(2):
            answer = await ask(opened)
            assert (answer.status, answer.body) == (status, body)
        assert server.opened == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [CLOSE],
        [FINE[:-1], CLOSE],
        [FINE[:20], CLOSE],
        [b"HTTP/1.1 200 OK\r\n\r\nno length", CLOSE],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n", CLOSE],
        [b"SSH-2.0-OpenSSH\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", CLOSE],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", bytes(100_000)],
    ],
)
async def test_an_answer_that_is_cut_off_too_long_or_not_http_is_an_error(
    pieces: Sequence[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_ANSWER_BYTES", 50_000)
    async with serving(pieces, [FINE]) as (server, opened):
        with pytest.raises(ConnectionLostError):
            await ask(opened, "POST")
        assert (await ask(opened, "POST")).body == b"fine"
        assert server.opened == 2


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    closing = FINE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with serving([closing], [FINE, CLOSE], [FINE]) as (server, opened):
        for number in range(3):
            assert (await ask(opened, "POST")).body == b"fine"
            while server.ended <= number < 2:  # the connection has been closed there, and here a little later
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        assert server.opened == 3


async def test_a_connection_that_is_being_closed_is_not_used_for_a_change() -> None:
    async with serving([FINE]) as (server, opened):
        await ask(opened, "POST")
        opened._idle[0].close()  # which the loop reports in its next turn
        assert (await ask(opened, "POST")).body == b"fine"
        assert server.opened == 2


async def test_bytes_that_nobody_asked_for_are_no_answer_to_the_next_request() -> None:
    async with serving([FINE + FINE.replace(b"fine", b"evil")], [FINE]) as (server, opened):
        assert (await ask(opened, "POST")).body == b"fine"
        assert (await ask(opened, "POST")).body == b"fine"
        assert server.opened == 2


async def test_a_late_answer_is_not_taken_for_that_of_the_next_request() -> None:
    async with serving([NOT_YET], [NOT_YET], [FINE]) as (server, opened):
        with pytest.raises(TimeoutError):
            await ask(opened, timeout_s=0.05)
        leaves = asyncio.ensure_future(ask(opened))
        while len(server.heads) < 2:
            await asyncio.sleep(0.01)
        leaves.cancel()
        await asyncio.wait({leaves})
        assert (await ask(opened)).body == b"fine"
        assert server.opened == 3


async def test_a_request_that_was_given_up_times_out_at_once() -> None:
    pending = PendingRequests()
    async with serving([NOT_YET]) as (server, opened):
        asked = asyncio.ensure_future(opened.ask("GET", "/x", {}, None, timeout_s=600, pending=pending))
        while not server.heads:
            await asyncio.sleep(0.01)
        for request in list(pending._pending):
            request.give_up()
        with pytest.raises(TimeoutError):
            await asked
        assert not pending._pending


async def test_only_connections_that_were_idle_for_long_are_closed() -> None:
    async with serving([FINE]) as (server, opened):
        await ask(opened)
        opened.close_idle(for_s=60)
        await ask(opened)
        assert server.opened == 1
        opened.close_idle()
        await ask(opened)
        assert server.opened == 2


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\rb", "a\0b"])
async def test_no_header_ends_early(value: str) -> None:
    async with serving([FINE]) as (server, opened):
        with pytest.raises(ValueError, match="line break"):
            await ask(opened, name=value)
        assert server.heads == []


async def test_names_are_resolved_within_the_allowed_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving([FINE], host="localhost") as (_, opened):
        assert (await ask(opened)).body == b"fine"
        opened.close_idle()
        metadata = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lambda *_, **__: _found(metadata))
        with pytest.raises(OSError, match="not allowed"):
            await ask(opened)


async def _found(addresses: Sequence[object]) -> Sequence[object]:
    return addresses


async def test_https_trusts_only_known_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = _self_signed(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    connections._tls.cache_clear()
    async with serving([FINE], tls=tls, host="localhost") as (_, opened):
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(opened)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    connections._tls.cache_clear()
    async with serving([FINE], tls=tls, host="localhost") as (server, opened):
        assert (await ask(opened)).body == b"fine"
        assert (await ask(opened)).body == b"fine"
        assert server.opened == 1
    connections._tls.cache_clear()


def _self_signed(folder: Path) -> Path:
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]),
    )
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    path = folder / "localhost.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path
