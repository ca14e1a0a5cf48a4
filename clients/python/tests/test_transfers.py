"""Large transfers continue after failures, and never give wrong bytes."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from support.system import System
from tests.faulty import Fault, FaultyProxy, faulty_proxy, problem

import artstore_client as artstore
from artstore_client import Client, safe_name

MIB = 1 << 20
CONTENT = os.urandom(3 * MIB)
READ = "GET /api/files/[^/]+/content"
PATCH = "PATCH /api/uploads/"
CREATE = "POST /api/uploads"
Connect = Callable[..., Client]


@pytest.fixture
async def file_id(store: Client) -> str:
    return (await store.upload(CONTENT, filename="file.bin", retention="temporary")).file_id


async def test_a_download_continues_where_it_was_cut(
    store: Client, proxy: FaultyProxy, file_id: str, tmp_path: Path
) -> None:
    proxy.faults = [Fault(READ, answer_cut=MIB), Fault(READ, answer_cut=MIB)]
    target = await store.download(file_id, tmp_path / "copy")
    assert target.read_bytes() == CONTENT
    first, *later = proxy.calls(READ)
    assert "range" not in first.headers
    assert [bool(call.headers.get("range")) for call in later] == [True, True]
    assert all(call.headers["if-range"] for call in later)
    proxy.faults = [Fault(READ, answer_cut=MIB)]
    async with store.open(file_id) as content:
        assert await content.read() == CONTENT


async def test_a_download_damaged_on_the_way_is_read_again(
    store: Client, proxy: FaultyProxy, file_id: str, tmp_path: Path
) -> None:
    proxy.faults = [Fault(READ, damage=MIB)]
    assert (await store.download(file_id, tmp_path / "copy")).read_bytes() == CONTENT
    proxy.faults = [Fault(READ, times=9, damage=MIB)]
    (tmp_path / "other").write_bytes(b"before")
    with pytest.raises(artstore.ContentDamaged):
        await store.download(file_id, tmp_path / "other", resume=False)
    assert (tmp_path / "other").read_bytes() == b"before"
    with pytest.raises(artstore.ContentDamaged):
        async with store.open(file_id) as content:
            await content.read()
    assert sorted(os.listdir(tmp_path)) == ["copy", "other"]


async def test_content_that_is_replaced_during_a_download_is_read_anew(
    store: Client, proxy: FaultyProxy, file_id: str, tmp_path: Path
) -> None:
    proxy.faults = [Fault(READ, answer_cut=2 * MIB)]
    target = tmp_path / "copy"
    replaced = False

    def replace(done: int, total: int | None) -> None:
        nonlocal replaced
        if done and not replaced:
            replaced = True
            tasks.append(asyncio.ensure_future(store.replace(file_id, b"new")))

    tasks: list[asyncio.Future[artstore.FileRecord]] = []
    proxy.faults.append(Fault(READ, answer=problem(503, "unavailable", retry_after="1")))
    await store.download(file_id, target, progress=replace)
    await tasks[0]
    assert target.read_bytes() == b"new"
    async with store.open(file_id) as content:
        assert await content.read() == b"new"


@pytest.mark.parametrize("resume", [True, False])
async def test_a_cancelled_download_leaves_only_what_the_next_one_continues(
    store: Client, proxy: FaultyProxy, file_id: str, tmp_path: Path, resume: bool
) -> None:
    def cancel(done: int, total: int | None) -> None:
        if done:
            task.cancel()

    task = asyncio.ensure_future(store.download(file_id, tmp_path / "copy", resume=resume, progress=cancel))
    with pytest.raises(asyncio.CancelledError):
        await task
    left = os.listdir(tmp_path)
    assert len(left) == resume
    proxy.seen.clear()
    await store.download(file_id, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert os.listdir(tmp_path) == ["copy"]
    assert any("range" in call.headers for call in proxy.calls(READ)) == resume


async def test_a_part_of_other_bytes_is_not_continued(store: Client, file_id: str, tmp_path: Path) -> None:
    digest = (await store.info(file_id)).sha256[:16]
    for left in (b"wrong bytes", CONTENT + b"more", CONTENT):
        (tmp_path / f"copy.{digest}.part").write_bytes(left)
        await store.download(file_id, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == CONTENT
        assert os.listdir(tmp_path) == ["copy"]


async def test_the_longest_name_leaves_space_for_that_of_the_part(store: Client, file_id: str, tmp_path: Path) -> None:
    for name in ("n" * 255, "я" * 125 + ".docx"):
        target = await store.download(file_id, tmp_path / name)
        assert target.read_bytes() == CONTENT
    assert len(os.listdir(tmp_path)) == 2


async def test_two_downloads_to_one_file_do_not_mix(store: Client, file_id: str, tmp_path: Path) -> None:
    outcomes = await asyncio.gather(
        *(store.download(file_id, tmp_path / "copy") for _ in range(2)), return_exceptions=True
    )
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert all(isinstance(one, Path | BlockingIOError) for one in outcomes)
    assert os.listdir(tmp_path) == ["copy"]


@contextmanager
def limited_disk(size: int) -> Iterator[None]:
    """Files of this process have at most so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_leaves_the_target_and_a_part_that_continues(
    store: Client, proxy: FaultyProxy, file_id: str, tmp_path: Path
) -> None:
    target = tmp_path / "copy"
    target.write_bytes(b"before")
    with limited_disk(2 * MIB + 100), pytest.raises(OSError, match="large") as full:
        await store.download(file_id, target)
    assert full.value.errno == errno.EFBIG
    assert target.read_bytes() == b"before"
    proxy.seen.clear()
    await store.download(file_id, target)
    assert target.read_bytes() == CONTENT
    assert proxy.calls(READ)[-1].headers["range"].startswith(f"bytes={2 * MIB + 100}-")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\Windows\\x.txt", "x.txt"),
        ("..", "_"),
        (".", "_"),
        ("", "_"),
        ("a\x00b\nc\u202e", "a_b_c_"),
        ("CON", "_CON"),
        ("com1.txt", "_com1.txt"),
        ("a:b|c?.txt", "a_b_c_.txt"),
        (".hidden", ".hidden"),
        ("trailing. .", "trailing"),
        ("Договор №5.pdf", "Договор №5.pdf"),
        ("я" * 200 + ".pdf", "я" * 125 + ".pdf"),
    ],
)
def test_a_name_never_leaves_its_folder(given: str, expected: str) -> None:
    assert safe_name(given) == expected


async def test_a_hostile_name_stays_in_the_folder_and_replaces_nothing(
    store: Client, proxy: FaultyProxy, file_id: str, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"before")

    def rename(head: bytes) -> bytes:
        return head.replace(b"file.bin", b"..%2f..%2fsecret")

    proxy.faults = [Fault(READ, times=2, rewrite=rename)]
    assert await store.download(file_id, folder) == folder / "secret"
    with pytest.raises(FileExistsError):
        await store.download(file_id, folder)
    assert (tmp_path / "secret").read_bytes() == b"before"
    assert os.listdir(folder) == ["secret"]


async def test_an_upload_in_parts_survives_cuts_and_refusals(
    connect: Connect, proxy: FaultyProxy, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(18 * MIB))
    proxy.faults = [
        Fault(PATCH, request_cut=5 * MIB),
        Fault(PATCH, answer_cut=0),
        Fault(PATCH, answer=problem(503, "unavailable", retry_after="0")),
        Fault(PATCH, answer_cut=0),
        Fault("HEAD /api/uploads/", answer=b"HTTP/1.1 503 Away\r\nretry-after: 0\r\n\r\n"),
    ]
    async with connect(resumable_from_bytes=MIB) as store:
        record = await store.upload(path, retention="temporary")
        async with store.open(record.file_id) as content:
            assert await content.read() == path.read_bytes()
    assert len(proxy.calls(CREATE)) == 1


async def test_a_stream_in_parts_survives_cuts(connect: Connect, proxy: FaultyProxy) -> None:
    async def stream() -> AsyncIterator[bytes]:
        for _ in range(33):
            yield bytes(MIB)

    proxy.faults = [Fault(PATCH, request_cut=5 * MIB), Fault(PATCH, answer_cut=0), Fault(PATCH, answer_cut=0)]
    async with connect() as store:
        record = await store.upload(stream(), filename="zeros", retention="temporary")
        assert (record.size_bytes, record.filename) == (33 * MIB, "zeros")


async def test_an_upload_that_expired_is_begun_anew(connect: Connect, proxy: FaultyProxy, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(2 * MIB))
    proxy.faults = [Fault(PATCH, answer=problem(404, "not_found")), Fault(PATCH, answer=problem(409, "mode_forbids"))]
    async with connect(resumable_from_bytes=MIB) as store:
        assert (await store.upload(path, retention="temporary")).size_bytes == 2 * MIB
    assert len(proxy.calls(CREATE)) == 3


async def test_a_failed_upload_names_its_url_and_is_continued(
    connect: Connect, proxy: FaultyProxy, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(10 * MIB))
    proxy.faults = [Fault(PATCH), Fault(PATCH, times=99, request_cut=0)]
    async with connect(resumable_from_bytes=MIB, retry_for_s=0) as store:
        with pytest.raises(artstore.ConnectionFailed) as failed:
            await store.upload(path, retention="temporary")
    proxy.faults = []
    async with connect(resumable_from_bytes=MIB) as store:
        with pytest.raises(artstore.ContentChanged):
            await store.upload(b"other bytes", upload_url=failed.value.upload_url)
        record = await store.upload(path, upload_url=failed.value.upload_url)
        assert record.size_bytes == 10 * MIB
    assert len(proxy.calls(CREATE)) == 1


KILLED = """
import asyncio, os, signal, sys
import artstore_client

def progress(sent, total):
    if sent >= 12 << 20:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    address, client_id, client_secret, path, state = sys.argv[1:]
    async with artstore_client.Client(address, client_id=client_id, client_secret=client_secret,
                                      resumable_from_bytes=1 << 20) as store:
        await store.upload(path, retention="temporary", state_file=state, progress=progress)

asyncio.run(main())
"""


@pytest.mark.parametrize("changed", [False, True])
async def test_an_upload_continues_after_its_process_was_killed(
    connect: Connect, proxy: FaultyProxy, tmp_path: Path, changed: bool
) -> None:
    path, state = tmp_path / "large", tmp_path / "state.json"
    path.write_bytes(os.urandom(20 * MIB))
    account = proxy.system.credentials()
    arguments = [proxy.url, account["client_id"], account["client_secret"], str(path), str(state)]
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, *arguments)
    assert await killed.wait() == -signal.SIGKILL
    assert state.stat().st_mode & 0o777 == 0o600
    if changed:
        path.write_bytes(os.urandom(20 * MIB))
    seen: list[int] = []
    async with connect(resumable_from_bytes=MIB) as store:
        record = await store.upload(
            path, retention="temporary", state_file=state, progress=lambda sent, _: seen.append(sent)
        )
        async with store.open(record.file_id) as content:
            assert await content.read() == path.read_bytes()
    assert len(proxy.calls(CREATE)) == (2 if changed else 1)
    assert (seen[0] == 0) == changed
    assert os.listdir(tmp_path) == ["large"]


FLAT = """
import asyncio, os, resource, sys
import artstore_client

async def main():
    address, client_id, client_secret, folder = sys.argv[1:]
    path = os.path.join(folder, "large")
    with open(path, "wb") as file:
        file.truncate(64 << 20)
    async with artstore_client.Client(address, client_id=client_id, client_secret=client_secret,
                                      resumable_from_bytes=1 << 20) as store:
        await store.download((await store.upload(b"warm")).file_id, os.path.join(folder, "warm"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        record = await store.upload(path, retention="temporary")
        await store.download(record.file_id, os.path.join(folder, "copy"))
        await store.upload(path, retention="temporary", idempotency_key=record.file_id)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

asyncio.run(main())
"""


async def test_large_transfers_take_little_memory(system: System, tmp_path: Path) -> None:
    account = system.credentials()
    arguments = [system.address, account["client_id"], account["client_secret"], str(tmp_path)]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FLAT, *arguments, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert int(output) < 20 * 1024, f"{int(output) // 1024} MiB more"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(datetime.now(UTC)).not_valid_after(datetime.now(UTC) + timedelta(days=1))
    signed = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(secret + signed.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return path


async def test_large_uploads_and_early_refusals_work_over_tls(system: System, certificate: Path) -> None:
    """The session tickets of TLS 1.3 arrive while the first request is sent; they are not an answer."""
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate)
    async with faulty_proxy(system, served) as proxy:
        trusted = ssl.create_default_context(cafile=str(certificate))
        options = {"verify": trusted, "resumable_from_bytes": 100 * MIB, "retry_for_s": 0}
        async with Client(proxy.url, token=system.token(), **options) as store:  # type: ignore[arg-type]
            for _ in range(2):
                assert (await store.upload(bytes(8 * MIB), retention="temporary")).size_bytes == 8 * MIB
                proxy.faults = [Fault("POST /api/files", answer=problem(507, "storage_full"), early=True)]
                with pytest.raises(artstore.StorageFull):
                    await store.upload(bytes(20 * MIB))
                await store.files(limit=1).all()
