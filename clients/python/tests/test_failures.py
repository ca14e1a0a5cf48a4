"""A caller meets failures: lost answers, cut connections, refusals, expired tokens."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable

import pytest
from support.system import System
from tests.faulty import Fault, FaultyProxy, problem

import artstore_client as artstore
from artstore_client import Client

UPLOAD = "POST /api/files/upload"
Connect = Callable[..., Client]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(UPLOAD, times=2, answer_cut=0),
        Fault(UPLOAD, times=2, request_cut=1000),
        Fault(UPLOAD, times=2, answer=problem(503, "unavailable", retry_after="0")),
        Fault(UPLOAD, times=2, answer=b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops"),
        Fault(UPLOAD, times=2, answer=b"HTTP/1.1 499 Gone\r\ncontent-length: 0\r\n\r\n"),
        Fault(UPLOAD, times=2, answer=problem(500, "internal_error")),
    ],
    ids=["lost answer", "cut", "503", "502 without a problem", "499 of a gateway", "500"],
)
async def test_an_upload_that_fails_on_the_way_makes_one_file(store: Client, proxy: FaultyProxy, fault: Fault) -> None:
    mark = uuid.uuid4().hex
    proxy.faults = [fault]
    record = await store.upload(b"x" * 300_000, tags=[mark])
    assert [one.file_id async for one in store.files(tags=[mark])] == [record.file_id]
    assert len({call.headers["idempotency-key"] for call in proxy.calls(UPLOAD)}) == 1
    assert len(proxy.calls(UPLOAD)) >= 3  # more while the first request is still running


async def test_a_batch_whose_answer_is_lost_makes_each_file_once(store: Client, proxy: FaultyProxy) -> None:
    mark = uuid.uuid4().hex
    proxy.faults = [Fault("POST /api/files/batch", answer_cut=0)]
    await store.upload_batch([artstore.Upload(content=b"%d" % n, tags=[mark]) for n in range(3)])
    assert await store.count(tags=[mark]) == 3


async def test_files_of_a_batch_that_are_refused_for_the_moment_are_sent_again(
    store: Client, proxy: FaultyProxy
) -> None:
    later = b'{"results": [{"index": 0, "status": 503, "problem": {"code": "unavailable", "retry_after_s": 0}}]}'
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(later), later)
    proxy.faults = [Fault("POST /api/files/batch", answer=answer)]
    (record,) = await store.upload_batch([artstore.Upload(content=b"x")])
    assert isinstance(record, artstore.FileRecord)
    assert len({call.headers["idempotency-key"] for call in proxy.calls("POST /api/files/batch")}) == 2


async def test_changes_whose_answer_is_lost_are_made_once(store: Client, proxy: FaultyProxy) -> None:
    record = await store.upload(b"x", retention="temporary")
    proxy.faults = [Fault(f"{method} /api/files/", answer_cut=0) for method in ("PATCH", "PUT", "DELETE")]
    assert (await store.update(record.file_id, revision=1, tags=["a"])).revision == 2
    assert (await store.replace(record.file_id, b"y", revision=2)).revision == 3
    await store.delete(record.file_id, revision=3)
    assert len(proxy.calls("(PATCH|PUT|DELETE) /api/files/")) == 6


async def test_a_stream_under_an_own_id_is_sent_once(store: Client, proxy: FaultyProxy) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"once"

    proxy.faults = [Fault("PUT /api/files/", answer=problem(503, "unavailable", retry_after="0"))]
    with pytest.raises(artstore.Unavailable):
        await store.upload(stream(), file_id=str(uuid.uuid4()))
    assert len(proxy.calls("PUT /api/files/")) == 1


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_a_stream_that_was_begun_is_never_sent_from_its_middle(
    store: Client, proxy: FaultyProxy, status: int
) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(100_000)

    record = await store.upload(b"before", retention="temporary")
    proxy.faults = [Fault("PUT /api/files/", answer=problem(status, "", retry_after="0"))]
    with pytest.raises(artstore.ArtStoreError):
        await store.replace(record.file_id, stream())
    assert (await store.info(record.file_id)) == record


async def test_the_client_waits_as_long_as_a_rate_limit_says(store: Client, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("GET /api/files", answer=problem(429, "rate_limited", retry_after="1"))]
    begun_s = time.monotonic()
    await store.files(limit=1).all()
    assert time.monotonic() - begun_s >= 1


async def test_a_long_retry_after_is_an_error_that_names_it(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("GET /api/files", answer=problem(503, "overloaded", retry_after="100"))]
    async with connect() as store:
        with pytest.raises(artstore.Overloaded) as refused:
            await store.info(str(uuid.uuid4()))
    assert (refused.value.retry_after, refused.value.request_id, refused.value.status) == (100, "r1", 503)


async def test_a_client_without_retries_raises_at_once(connect: Connect, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault("GET /api/files", answer=problem(429, "rate_limited", retry_after="0"))]
    async with connect(retry_for_s=0) as store:
        with pytest.raises(artstore.RateLimited):
            await store.info(str(uuid.uuid4()))


async def test_what_must_not_happen_twice_is_not_repeated(store: Client, proxy: FaultyProxy) -> None:
    verify = "POST /api/storage-elements/se-01/verify"
    proxy.faults = [Fault(verify, answer_cut=0), Fault(verify, answer=problem(503, "unavailable"))]
    with pytest.raises(artstore.ConnectionFailed):
        await store.elements.verify("se-01")
    with pytest.raises(artstore.Unavailable):
        await store.elements.verify("se-01")
    assert len(proxy.calls(verify)) == 2
    proxy.faults = [Fault(verify, answer=problem(429, "rate_limited", retry_after="0"))]
    await store.elements.verify("se-01")
    assert len(proxy.calls(verify)) == 4


async def test_an_account_and_its_new_secret_are_made_once(store: Client, connect: Connect, proxy: FaultyProxy) -> None:
    accounts = "POST /api/service-accounts"
    client_id = f"test-{uuid.uuid4().hex[:8]}"
    proxy.faults = [Fault(accounts, answer_cut=0)]
    made = await store.accounts.create(client_id)
    proxy.faults = [Fault(accounts, answer_cut=0)]
    rotated = await store.accounts.rotate(made.id, grace_s=0)
    async with connect(client_id=client_id, client_secret=rotated.client_secret) as other:
        assert await other.token()
    await store.accounts.delete(made.id)
    assert len(proxy.calls(accounts)) == 4


async def test_an_unknown_code_has_the_class_of_its_status(store: Client, proxy: FaultyProxy) -> None:
    for status, code, expected in (
        (409, "later_conflict", artstore.Conflict),
        (422, "", artstore.InvalidFields),
        (418, "teapot", artstore.ArtStoreError),
    ):
        proxy.faults = [Fault("GET /api/files", answer=problem(status, code))]
        with pytest.raises(expected) as refused:
            await store.info("x")
        assert refused.value.code == code or code == ""
    proxy.faults = [
        Fault("GET /api/files", answer=b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n")
    ]
    with pytest.raises(artstore.InvalidAnswer, match="/login"):
        await store.info("x")
    page = b"<html>Welcome</html>"
    proxy.faults = [
        Fault("GET /api/files", answer=b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(page), page))
    ]
    with pytest.raises(artstore.InvalidAnswer):
        await store.info("x")


async def test_an_address_without_a_service_is_named() -> None:
    async with Client("http://127.0.0.1:1", token="t", retry_for_s=0) as store:
        with pytest.raises(artstore.ConnectionFailed, match=r"127\.0\.0\.1:1"):
            await store.info("x")
    for wrong in ("localhost:8080", "ftp://host", ""):
        with pytest.raises(ValueError, match="http"):
            Client(wrong, token="t")
    with pytest.raises(ValueError, match="client_id"):
        Client("http://localhost")


async def test_many_tasks_share_one_token(store: Client, connect: Connect, proxy: FaultyProxy) -> None:
    record = await store.upload(b"x")
    proxy.seen.clear()
    await asyncio.gather(*(store.info(record.file_id) for _ in range(50)))
    assert not proxy.calls("POST /api/auth/token")
    async with connect() as other:
        await asyncio.gather(*(other.info(record.file_id) for _ in range(50)))
    assert len(proxy.calls("POST /api/auth/token")) == 1


async def test_a_refused_token_is_renewed_once(store: Client, proxy: FaultyProxy) -> None:
    record = await store.upload(b"x")
    proxy.seen.clear()
    proxy.faults = [Fault("GET /api/files", answer=problem(401, "unauthenticated"))]
    await asyncio.gather(*(store.info(record.file_id) for _ in range(5)))
    assert len(proxy.calls("POST /api/auth/token")) == 1
    proxy.faults = [Fault("GET /api/files", times=100, answer=problem(401, "unauthenticated"))]
    with pytest.raises(artstore.Unauthenticated):
        await store.info(record.file_id)
    assert len(proxy.calls("POST /api/auth/token")) == 2


async def test_an_upload_with_an_expired_token_is_repeated_with_a_new_one(system: System) -> None:
    given: list[str] = []

    class Tokens:
        async def token(self, refused: str = "") -> str:
            given.append(refused)
            return system.token() if refused else "expired"

    async with Client(system.address, token=Tokens()) as store:
        assert (await store.upload(bytes(8 << 20))).size_bytes == 8 << 20
    assert given == ["", "expired"]


async def test_a_refusal_before_the_end_of_a_large_body_is_seen(system: System) -> None:
    """The service does not read the body, and closes the connection."""
    async with Client(system.address, **system.credentials(), resumable_from_bytes=100 << 20) as store:  # type: ignore[arg-type]
        with pytest.raises(artstore.InvalidFields):
            await store.upload(bytes(20 << 20), filename="../name")


async def test_wrong_credentials_are_refused_without_repeats(connect: Connect, proxy: FaultyProxy) -> None:
    async with connect(client_id="admin", client_secret="wrong") as store:
        with pytest.raises(artstore.Unauthenticated):
            await store.info("x")
    assert len(proxy.calls("POST /api/auth/token")) == 1


async def test_a_token_in_its_second_half_is_used_while_admin_is_away(connect: Connect, proxy: FaultyProxy) -> None:
    login = f'{{"access_token": "{proxy.system.token()}", "token_type": "Bearer", "expires_in": 40}}'.encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(login), login)
    gone = b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n"
    proxy.faults = [Fault("POST /api/auth/token", answer=answer), Fault("POST /api/auth/token", times=99, answer=gone)]
    async with connect() as store:
        first = await store.token()
        store._transport.tokens._renew_at_s = 0  # type: ignore[attr-defined]
        while len(proxy.calls("POST /api/auth/token")) < 3:
            assert await store.token() == first
            await asyncio.sleep(0.01)


async def test_a_queued_change_is_awaited_or_named(connect: Connect, proxy: FaultyProxy) -> None:
    user = proxy.system.new_account("USER")
    async with connect(**user, saga_wait_s=0) as store:
        record = await store.upload(b"x", retention="temporary")
        saga = b'{"saga_id": "5", "kind": "delete", "state": "queued", "file_id": null, "storage_element_id": "se-01", \
            "owner": "u", "due_at": null, "attempts": 1, "last_error": "se-01 is away", \
            "begun_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}'
        head = b"HTTP/1.1 %d Accepted\r\ncontent-length: %d\r\n\r\n"
        refused = saga.replace(b'"queued"', b'"refused", "problem": {"status": 409, "code": "mode_forbids"}')
        proxy.faults = [
            Fault("DELETE /api/files", times=2, answer=head % (202, len(saga)) + saga),
            Fault("GET /api/sagas/5", answer=head % (200, len(saga)) + saga),
            Fault("GET /api/sagas/5", answer=head % (200, len(refused)) + refused),
        ]
        with pytest.raises(artstore.StillQueued, match="se-01 is away") as queued:
            await store.delete(record.file_id)
        assert queued.value.saga_id == "5"
        with pytest.raises(artstore.ModeForbids):
            await store.delete(record.file_id)
    async with connect(**user) as store:
        assert (await store.update(record.file_id, retention="permanent")).retention == "permanent"
