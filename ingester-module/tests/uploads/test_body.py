"""Bodies over real sockets: the test writes the bytes of the request, behind uvicorn is the reader."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import orjson
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.uploads.body import BUFFER_BYTES, PIECE_BYTES, open_upload
from artstore.clock import Clock
from artstore.http.body import BodyLimits, BodyRateLimits
from artstore.http.json import JsonResponse
from artstore.http.problems import install_problem_handlers

LIMITS = BodyLimits(max_file_bytes=8 * 2**20, rate=BodyRateLimits(idle_timeout_s=0.3, min_rate_bytes_per_s=1))
B = "Xy7"


class Seen(msgspec.Struct):
    """The body as the handler received it."""

    filename: str | None
    content_type: str | None
    fields: dict[str, str]
    held: bool
    size_bytes: int | None
    sha256: str
    sizes: list[int]


@dataclass
class Answer:
    status: int
    body: bytes
    interim: bool = False

    @property
    def seen(self) -> Seen:
        assert self.status == 200, self.body
        return msgspec.json.decode(self.body, type=Seen)

    @property
    def code(self) -> str:
        return str(orjson.loads(self.body)["code"])


@dataclass
class Server:
    port: int
    passed_on: list[int]
    """Bytes that each request sent on before it ended or failed."""

    async def send(self, head: str, *pieces: bytes, pause_s: float = 0.0, cut: bool = False) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"POST /?{head}".encode() + b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
            if cut:
                writer.write_eof()
                return Answer(0, await reader.read())
            status_line = await reader.readuntil(b"\r\n\r\n")
            interim = status_line.startswith(b"HTTP/1.1 100")
            if interim:
                return Answer(100, b"", interim)
            length = int(status_line.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            return Answer(int(status_line.split(b" ")[1]), await reader.readexactly(length))
        finally:
            writer.close()

    async def raw(
        self, body: bytes, headers: str = "", query: str = "", pause_s: float = 0.0, cut: bool = False
    ) -> Answer:
        head = f"{query} HTTP/1.1\r\nhost: t\r\ncontent-length: {len(body)}\r\n{headers}".removesuffix("\r\n")
        return await self.send(head, body, pause_s=pause_s, cut=cut)

    async def form(self, body: bytes, headers: str = "", query: str = "", slices: int = 1) -> Answer:
        head = (
            f"{query} HTTP/1.1\r\nhost: t\r\ncontent-type: multipart/form-data; boundary={B}\r\n"
            f"content-length: {len(body)}\r\n{headers}"
        ).removesuffix("\r\n")
        cuts = sorted(random.Random(slices).sample(range(len(body)), max(0, min(slices, len(body)) - 1)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        return await self.send(head, *pieces)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    passed_on: list[int] = []

    async def take(request: Request) -> Response:
        opened = await open_upload(request, LIMITS, Clock(), lambda *_: None)
        sizes: list[int] = []
        hashed = hashlib.sha256()
        passed_on.append(0)
        async for piece in opened.body.pieces() if not opened.body.buffered else _once(opened.body.buffered_bytes):
            sizes.append(len(piece))
            passed_on[-1] += len(piece)
            hashed.update(piece)
        opened.complete()
        return JsonResponse(
            Seen(
                opened.filename,
                opened.content_type,
                opened.fields,
                opened.body.buffered,
                opened.body.size_bytes,
                hashed.hexdigest(),
                sizes,
            )
        )

    app = FastAPI()
    install_problem_handlers(app)
    app.router.routes.append(Route("/", take, methods=["POST"]))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", http="httptools", ws="none"))
    serving = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    yield Server(running.servers[0].sockets[0].getsockname()[1], passed_on)
    running.should_exit = True
    await serving


async def _once(piece: bytes) -> AsyncIterator[bytes]:
    yield piece


def part(name: str, body: bytes, disposition: str = "", headers: str = "") -> bytes:
    return (
        f'--{B}\r\nContent-Disposition: form-data; name="{name}"{disposition}\r\n{headers}\r\n'.encode()
        + body
        + b"\r\n"
    )


def file_part(body: bytes, filename: str = "a.bin", headers: str = "") -> bytes:
    return part("file", body, f'; filename="{filename}"', headers)


END = f"--{B}--\r\n".encode()
SIZES = [
    0,
    1,
    BUFFER_BYTES - 1,
    BUFFER_BYTES,
    BUFFER_BYTES + 1,
    PIECE_BYTES,
    PIECE_BYTES + 1,
    2**20,
    2**20 + 1,
    3 * 2**20,
]


def digest(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


@pytest.mark.parametrize("size", SIZES)
async def test_a_raw_body_arrives_unchanged(server: Server, size: int) -> None:
    body = os.urandom(size)
    seen = (await server.raw(body, "content-type: a/b\r\n")).seen
    assert (seen.sha256, seen.size_bytes, seen.content_type) == (hashlib.sha256(body).hexdigest(), size, "a/b")
    assert seen.held == (size <= BUFFER_BYTES)


@pytest.mark.parametrize("size", SIZES)
async def test_the_file_of_a_form_arrives_unchanged(server: Server, size: int) -> None:
    body = os.urandom(size)
    sent = part("tags", b'["a"]') + file_part(body, "Договор №5.pdf", "Content-Type: application/pdf\r\n") + END
    seen = (await server.form(sent, slices=20)).seen
    assert (seen.sha256, seen.filename) == (hashlib.sha256(body).hexdigest(), "Договор №5.pdf")
    assert (seen.fields, seen.content_type) == ({"tags": '["a"]'}, "application/pdf")
    assert seen.held == (size <= BUFFER_BYTES)


@pytest.mark.parametrize(
    "body", [b"\r\n" * 100_000, f"\r\n--{B}".encode()[:-1] * 30_000, b"\r" * 200_000, b"--" * 90_000]
)
@pytest.mark.parametrize("slices", [1, 7, 300])
async def test_bytes_that_look_like_a_boundary_are_bytes_of_the_file(server: Server, body: bytes, slices: int) -> None:
    seen = (await server.form(file_part(body) + END, slices=slices)).seen
    assert seen.sha256 == hashlib.sha256(body).hexdigest()


async def test_a_form_may_arrive_byte_by_byte(server: Server) -> None:
    sent = part("metadata", b"{}") + file_part(b"\r\n\r\nhello", "имя.txt") + END
    assert (await server.form(sent, slices=len(sent))).seen.filename == "имя.txt"


async def test_a_chunked_body_has_no_known_size_and_arrives_whole(server: Server) -> None:
    head = " HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked"
    chunk = os.urandom(100_000)
    seen = (await server.send(head, *([b"186a0\r\n" + chunk + b"\r\n"] * 5), b"0\r\n\r\n")).seen
    assert (seen.size_bytes, seen.sha256) == (None, hashlib.sha256(chunk * 5).hexdigest())


async def test_the_name_comes_from_the_header_only(server: Server) -> None:
    named = "content-disposition: attachment; filename*=UTF-8''%D0%94.pdf\r\n"
    assert (await server.raw(b"x", named)).seen.filename == "Д.pdf"
    assert (await server.raw(b"x", 'content-disposition: attachment; filename="Ж🗂️"\r\n')).seen.filename == "Ж🗂️"
    assert (await server.raw(b"x")).seen.filename is None
    assert (await server.form(part("file", b"x") + END)).seen.filename is None


BAD_FORMS: list[tuple[str, bytes, int, str]] = [
    ("no end", file_part(b"x" * 10), 400, "malformed"),
    ("no end after much", file_part(b"x" * 1_000_000), 400, "malformed"),
    ("cut in a part's head", f"--{B}\r\nContent-Disp".encode(), 400, "malformed"),
    ("nothing", b"", 400, "malformed"),
    ("no boundary in it", b"hello there, this is no form", 400, "malformed"),
    ("no file", part("tags", b"[]") + END, 400, "malformed"),
    (
        "an unknown field after a large file",
        file_part(b"x" * 500_000) + part("color", b"") + END,
        422,
        "invalid_fields",
    ),
    (
        "a field on both sides",
        part("ttl_days", b"1") + file_part(b"x" * 500_000) + part("ttl_days", b"1") + END,
        422,
        "invalid_fields",
    ),
    (
        "a field before, and its condition missing after",
        part("ttl_days", b"1") + file_part(b"x") + END,
        422,
        "invalid_fields",
    ),
    (
        "a long field after a large file",
        file_part(b"x" * 500_000) + part("metadata", b"x" * 20_000) + END,
        422,
        "invalid_fields",
    ),
    ("a second file after a large one", file_part(b"x" * 500_000) + file_part(b"y") + END, 400, "malformed"),
    ("a file under another name", part("data", b"x", '; filename="a"') + END, 422, "invalid_fields"),
    ("a second file", file_part(b"x") + file_part(b"y") + END, 400, "malformed"),
    ("no disposition", f"--{B}\r\nContent-Type: a/b\r\n\r\nx\r\n".encode() + END, 400, "malformed"),
    ("junk after a boundary", f"--{B}junk\r\n".encode() + END, 400, "malformed"),
    ("a header that is not UTF-8", file_part(b"x").replace(b"a.bin", b"\xff.bin") + END, 400, "malformed"),
    (
        "two dispositions",
        file_part(b"x", headers='Content-Disposition: form-data; name="tags"\r\n') + END,
        400,
        "malformed",
    ),
    ("two types", file_part(b"x", headers="Content-Type: a/b\r\nContent-Type: c/d\r\n") + END, 400, "malformed"),
    ("a shorter length", file_part(b"xy", headers="Content-Length: 1\r\n") + END, 400, "malformed"),
    ("a longer length", file_part(b"x" * 300_000, headers="Content-Length: 300001\r\n") + END, 400, "malformed"),
    ("a length in words", file_part(b"x", headers="Content-Length: two\r\n") + END, 400, "malformed"),
    *(
        (
            coding,
            file_part(b"AAECAwT/", headers=f"Content-Transfer-Encoding: {coding}\r\n") + END,
            415,
            "unsupported_media_type",
        )
        for coding in ("base64", "BASE64", "quoted-printable", "x-uuencode", "Base64 ", "gzip", "binary, base64")
    ),
    (
        "a gzip part",
        file_part(b"x", headers="Content-Encoding: gzip\r\n") + END,
        415,
        "unsupported_media_type",
    ),
    (
        "a field in base64",
        part("tags", b"W10=").replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n", 1)
        + file_part(b"x")
        + END,
        415,
        "unsupported_media_type",
    ),
    ("a chunked part", file_part(b"x", headers="Transfer-Encoding: chunked\r\n") + END, 415, "unsupported_media_type"),
    ("a part of the content", file_part(b"x", headers="Content-Range: bytes 0-0/9\r\n") + END, 400, "malformed"),
    ("unknown field", part("color", b"red") + file_part(b"x") + END, 422, "invalid_fields"),
    ("field twice", part("metadata", b"{}") * 2 + file_part(b"x") + END, 422, "invalid_fields"),
    ("too many tags", part("tags", b"a") * 65 + file_part(b"x") + END, 422, "invalid_fields"),
    ("field not UTF-8", part("tags", b"\xff") + file_part(b"x") + END, 422, "invalid_fields"),
    ("field too long", part("tags", b"x" * 20_000) + file_part(b"x") + END, 422, "invalid_fields"),
    ("5 MB filename", file_part(b"x", "n" * 5_000_000) + END, 431, "too_many_headers"),
    ("many part headers", file_part(b"x", headers="A: b\r\n" * 20) + END, 431, "too_many_headers"),
    ("many parts", part("tags", b"") * 81 + END, 400, "malformed"),
    ("a long preamble", b"junk\r\n" * 200_000 + file_part(b"x") + END, 400, "malformed"),
    ("a long epilogue", file_part(b"x") + END + b"junk\r\n" * 200_000, 400, "malformed"),
    ("too large", file_part(b"x" * (LIMITS.max_file_bytes + 1)) + END, 413, "too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), [row[1:] for row in BAD_FORMS], ids=[row[0] for row in BAD_FORMS])
async def test_an_invalid_form_is_refused_before_its_end_is_sent_on(
    server: Server, body: bytes, status: int, code: str
) -> None:
    server.passed_on.clear()
    answer = await server.form(body)
    assert (answer.status, answer.code) == (status, code)
    assert sum(server.passed_on) < max(len(body), 1)


@pytest.mark.parametrize("size", [1, BUFFER_BYTES, BUFFER_BYTES + 1, 2**20])
@pytest.mark.parametrize("before", range(4))
async def test_fields_may_come_before_and_after_the_file(server: Server, size: int, before: int) -> None:
    body = os.urandom(size)
    parts = [part("retention", b"temporary"), part("ttl_days", b"2"), part("filename", "Д.pdf".encode())]
    sent = b"".join([*parts[:before], file_part(body, "a\\b.bin"), *parts[before:], END])
    seen = (await server.form(sent, slices=30)).seen
    assert seen.fields == {"retention": "temporary", "ttl_days": "2", "filename": "Д.pdf"}
    assert seen.sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("size", [1, 500_000])
async def test_tags_may_be_repeated_and_be_plain_words(server: Server, size: int) -> None:
    tags = [
        part("tags", "договор".encode()),
        part("tags", b'["b", "c,d"]'),
        file_part(bytes(size)),
        part("tags", b"e f"),
    ]
    seen = (await server.form(b"".join([*tags, END]), query="tags=a&tags=")).seen
    assert orjson.loads(seen.fields["tags"]) == ["a", "договор", "b", "c,d", "e f"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (part("tags", b"[]") + END, "a part named file"),
        (part("data", b"x", '; filename="a"') + END, "must be named file, not 'data'"),
        (part("tags", b"a,b") + file_part(b"x") + END, "repeat the field"),
    ],
)
async def test_the_error_of_an_invalid_form_names_the_remedy(server: Server, body: bytes, words: str) -> None:
    assert words in orjson.loads((await server.form(body)).body)["detail"]


async def test_the_error_of_an_invalid_form_names_the_problem(server: Server) -> None:
    answer = await server.form(file_part(b"x").replace(b"a.bin", b"\xff.bin") + END)
    assert (
        orjson.loads(answer.body)["detail"]
        == "filename is not UTF-8: send it in UTF-8, or as filename*=UTF-8''percent-encoded text"
    )


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Transfer-Encoding: binary",
        "content-transfer-encoding: 8BIT",
        "Content-Transfer-Encoding: 7bit",
        "Content-Encoding: identity",
        "Content-Length: 8",
    ],
)
async def test_an_unencoded_part_arrives_unchanged(server: Server, headers: str) -> None:
    answer = await server.form(file_part(b"AAECAwT/", headers=f"{headers}\r\n") + END)
    assert answer.status == 200


@pytest.mark.parametrize("boundary", ["", "x" * 5000, '""'])
async def test_a_form_without_a_usable_boundary_is_malformed(server: Server, boundary: str) -> None:
    head = f" HTTP/1.1\r\nhost: t\r\ncontent-type: multipart/form-data; boundary={boundary}\r\ncontent-length: 0"
    assert (await server.send(head)).status in (400, 431)


async def test_the_end_of_a_truncated_body_is_never_sent_on(server: Server) -> None:
    for size in (100, 1_000_000):
        server.passed_on.clear()
        head = f" HTTP/1.1\r\nhost: t\r\ncontent-length: {size}"
        await server.send(head, b"x" * (size - 1), cut=True)
        await asyncio.sleep(0.05)
        assert sum(server.passed_on) < size - 1 or size < BUFFER_BYTES


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_a_digest_of_a_form_may_be_that_of_the_file_or_the_body(server: Server, size: int) -> None:
    file = os.urandom(size)
    sent = file_part(file) + END
    for right in (digest(file), digest(sent)):
        assert (await server.form(sent, f"content-digest: sha-256=:{right}:\r\n")).status == 200
    server.passed_on.clear()
    wrong = await server.form(sent, f"content-digest: sha-256=:{digest(b'other')}:\r\n")
    assert (wrong.status, wrong.code) == (400, "digest_mismatch")
    assert sum(server.passed_on) < size


async def test_sha512_of_a_raw_body_is_checked_before_its_end_is_sent_on(server: Server) -> None:
    file = os.urandom(1_000_000)
    right = base64.b64encode(hashlib.sha512(file).digest()).decode()
    assert (await server.raw(file, f"repr-digest: sha-512=:{right}:\r\n")).status == 200
    server.passed_on.clear()
    assert (
        await server.raw(file[:-1] + bytes([file[-1] ^ 1]), f"repr-digest: sha-512=:{right}:\r\n")
    ).code == "digest_mismatch"
    assert sum(server.passed_on) < len(file)


async def test_a_body_with_a_too_large_length_is_refused_unread(server: Server) -> None:
    head = f" HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: {LIMITS.max_file_bytes + 1}"
    answer = await server.send(head)
    assert (answer.status, answer.code, answer.interim) == (413, "too_large", False)


async def test_a_chunked_body_that_grows_too_large_is_refused(server: Server) -> None:
    chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    answer = await server.send(" HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked", *([chunk] * 9))
    assert (answer.status, answer.code) == (413, "too_large")


async def test_an_expected_body_is_asked_for_with_100_continue(server: Server) -> None:
    answer = await server.send(" HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 5")
    assert answer.interim


async def test_a_client_that_stalls_gets_408_and_is_disconnected(server: Server) -> None:
    answer = await server.send(" HTTP/1.1\r\nhost: t\r\ncontent-length: 100", b"x")
    assert (answer.status, answer.code) == (408, "too_slow")
