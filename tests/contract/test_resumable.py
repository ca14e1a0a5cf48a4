"""Resumable uploads by tus 1.0: every step of the protocol, broken-off connections, and what must be refused."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.system import System

TUS = {"tus-resumable": "1.0.0"}
BYTES = {"content-type": "application/offset+octet-stream"}
WAIT_S = 120


class Uploader:
    """One account. `offset` and the other methods return the response, whatever its status."""

    def __init__(self, system: System, client: httpx.Client) -> None:
        self.system, self.url = system, system.url("ingester")
        wanted = {"client_id": f"tus-{secrets.token_hex(4)}", "role": "USER", "rate_per_minute": 1_000_000}
        made = client.post(f"{system.url('admin')}/api/service-accounts", json=wanted)
        made.raise_for_status()
        self.token = system.token(made.json()["client_id"], made.json()["client_secret"])
        self.http = httpx.Client(headers={"authorization": f"Bearer {self.token}"}, timeout=WAIT_S)

    def ask(self, method: str, path: str, headers: dict[str, str], content: Any = None) -> httpx.Response:
        return self.http.request(method, self.url + path, headers={**TUS, **headers}, content=content)

    def create(self, length: int | None, content: bytes | None = None, **headers: str) -> httpx.Response:
        stated = {"upload-defer-length": "1"} if length is None else {"upload-length": str(length)}
        carried = BYTES if content is not None else {}
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", "/api/uploads", {**stated, **carried, **fields}, content)

    def begun(self, length: int | None) -> str:
        """The path of a new upload."""
        answer = self.create(length)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    def patch(self, path: str, offset: int, content: Any, **headers: str) -> httpx.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("PATCH", path, {**BYTES, "upload-offset": str(offset), **fields}, content)

    def offset(self, path: str) -> int:
        answer = self.ask("HEAD", path, {})
        assert answer.status_code == 200, answer.status_code
        return int(answer.headers["upload-offset"])

    def content(self, file_id: str) -> bytes:
        answer = self.http.get(f"{self.system.url('query')}/api/files/{file_id}/content")
        assert answer.status_code == 200, answer.text
        return answer.content

    def record(self, file_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"{self.system.url('query')}/api/files/{file_id}").json())


class SlowPatch:
    """A PATCH that the element has accepted, whose body stops after some bytes while the connection stays open."""

    def __init__(self, uploader: Uploader, path: str, content: bytes, stated: int, *fields: str) -> None:
        host, _, port = uploader.url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=WAIT_S)
        head = [
            f"PATCH {path} HTTP/1.1",
            "host: x",
            f"authorization: Bearer {uploader.token}",
            "tus-resumable: 1.0.0",
            "content-type: application/offset+octet-stream",
            "upload-offset: 0",
            f"content-length: {stated}",
            "expect: 100-continue",
            *fields,
        ]
        self._socket.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        self._answer = self._socket.makefile("rb")
        assert self._answer.readline().split()[1] == b"100"
        assert self._answer.readline() == b"\r\n"
        self._socket.sendall(content)

    def status(self) -> int:
        return int(self._answer.readline().split()[1])

    def close(self) -> None:
        self._answer.close()
        self._socket.close()


@pytest.fixture(scope="module")
def uploader(system: System, client: httpx.Client) -> Iterator[Uploader]:
    made = Uploader(system, client)
    with made.http:
        yield made


@pytest.fixture(scope="module")
def stranger(system: System, client: httpx.Client) -> Iterator[Uploader]:
    made = Uploader(system, client)
    with made.http:
        yield made


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def checksum(algorithm: str, content: bytes) -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


def wait_for_progress(uploader: Uploader, path: str) -> None:
    """By GET, which interrupts nothing."""
    deadline = time.monotonic() + WAIT_S
    while not uploader.http.get(uploader.url + path).json()["offset"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_options_tell_what_is_supported_without_a_token(system: System) -> None:
    for path in ("/api/uploads", "/api/uploads/x"):
        answer = httpx.options(system.url("ingester") + path)
        assert (answer.status_code, answer.headers["tus-version"]) == (204, "1.0.0")
        assert {"creation", "checksum", "expiration", "termination"} <= set(answer.headers["tus-extension"].split(","))
        assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256,md5"
        assert int(answer.headers["tus-max-size"]) > 2**30


def test_a_script_of_an_allowed_origin_may_send_and_read_the_headers_of_tus(system: System, uploader: Uploader) -> None:
    origin = {"origin": "https://desk.example"}
    asked = {"access-control-request-method": "PATCH", "access-control-request-headers": "tus-resumable,upload-offset"}
    preflight = httpx.options(system.url("ingester") + "/api/uploads/x", headers={**origin, **asked})
    assert preflight.status_code == 200
    assert "upload-offset" in preflight.headers["access-control-allow-headers"].lower()
    answer = uploader.create(1, origin=origin["origin"])
    exposed = answer.headers["access-control-expose-headers"].lower()
    wanted = ("location", "tus-resumable", "upload-offset", "upload-length", "upload-expires", "x-artstore-file-id")
    assert all(name in exposed for name in (*wanted, "tus-version", "tus-extension", "tus-max-size", "upload-metadata"))


@pytest.mark.parametrize("size", [0, 1, 70_000, 3 << 20])
def test_an_upload_in_pieces_becomes_a_file(uploader: Uploader, size: int) -> None:
    content, described = secrets.token_bytes(size), metadata(
        filename="Договор №5.pdf", filetype="application/pdf", tags='["a"]', metadata='{"n": 5}'
    )  # fmt: skip
    answer = uploader.create(size, upload_metadata=described)
    assert (answer.status_code, answer.headers["tus-resumable"]) == (201, "1.0.0")
    path, offset = answer.headers["location"], 0
    while offset < size:
        assert uploader.offset(path) == offset
        step = min(size - offset, size // 3 + 1)
        answer = uploader.patch(path, offset, content[offset : offset + step])
        offset += step
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(offset)), answer.text
        assert "upload-expires" in answer.headers
        assert ("x-artstore-file-id" in answer.headers) == (offset == size)
    file_id = answer.headers["x-artstore-file-id"]
    record = uploader.record(file_id)
    assert (record["filename"], record["content_type"]) == ("Договор №5.pdf", "application/pdf")
    assert (record["tags"], record["metadata"], record["size_bytes"]) == (["a"], {"n": 5}, size)
    assert uploader.content(file_id) == content
    head = uploader.ask("HEAD", path, {})
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == (str(size), str(size))
    assert (head.headers["x-artstore-file-id"], head.headers["upload-metadata"]) == (file_id, described)
    assert head.headers["cache-control"] == "no-store"
    shown = uploader.http.get(uploader.url + path).json()
    assert shown.keys() == {"upload_id", "offset", "length", "expires_at", "file_id"}
    assert (shown["offset"], shown["length"], shown["file_id"]) == (size, size, file_id)
    assert path.endswith(shown["upload_id"])
    assert uploader.patch(path, size, b"").headers["x-artstore-file-id"] == file_id, "a repeat of the last PATCH"


def test_creation_with_upload_completes_in_one_request(uploader: Uploader) -> None:
    content = secrets.token_bytes(100_000)
    answer = uploader.create(len(content), content)
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, str(len(content))), answer.text
    file_id = answer.headers["x-artstore-file-id"]
    assert uploader.content(file_id) == content
    assert uploader.record(file_id)["filename"] == file_id
    answer = uploader.create(len(content), content[:1000])
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, "1000")
    assert "x-artstore-file-id" not in answer.headers


def test_the_length_may_be_stated_later(uploader: Uploader) -> None:
    path = uploader.begun(None)
    assert uploader.ask("HEAD", path, {}).headers["upload-defer-length"] == "1"
    assert uploader.patch(path, 0, b"first").status_code == 204
    answer = uploader.patch(path, 5, b" last", upload_length="10")
    assert answer.status_code == 204
    assert uploader.content(answer.headers["x-artstore-file-id"]) == b"first last"


def test_a_temporary_file_keeps_its_days(uploader: Uploader) -> None:
    answer = uploader.create(1, b"x", upload_metadata=metadata(retention="temporary", ttl_days="2", filename="a"))
    record = uploader.record(answer.headers["x-artstore-file-id"])
    assert (record["retention"], record["storage_element_id"]) == ("temporary", "se-01")
    assert record["expires_at"] is not None


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_a_wrong_checksum_discards_the_bytes_of_its_patch_only(uploader: Uploader, algorithm: str) -> None:
    first, second = secrets.token_bytes(200_000), secrets.token_bytes(70_000)
    path = uploader.begun(len(first + second))
    right = checksum(algorithm, first)
    assert uploader.patch(path, 0, first, upload_checksum=right).status_code == 204
    answer = uploader.patch(path, len(first), second, upload_checksum=right)
    assert (answer.status_code, answer.json()["code"], answer.headers["tus-resumable"]) == (
        460,
        "checksum_mismatch",
        "1.0.0",
    )
    assert uploader.offset(path) == len(first)
    answer = uploader.patch(path, len(first), second, upload_checksum=checksum(algorithm, second))
    assert uploader.content(answer.headers["x-artstore-file-id"]) == first + second


def test_what_arrived_before_a_cut_counts(uploader: Uploader) -> None:
    content = secrets.token_bytes(500_000)
    path = uploader.begun(len(content))
    SlowPatch(uploader, path, content[:123_456], len(content)).close()
    wait_for_progress(uploader, path)
    offset = uploader.offset(path)
    assert offset <= 123_456
    print("of 123456 bytes before the cut", offset, "count")
    answer = uploader.patch(path, offset, content[offset:])
    assert uploader.content(answer.headers["x-artstore-file-id"]) == content


def test_a_patch_with_a_checksum_that_breaks_off_leaves_the_offset(uploader: Uploader) -> None:
    path = uploader.begun(1000)
    SlowPatch(uploader, path, bytes(500), 1000, f"upload-checksum: {checksum('sha1', b'')}").close()
    assert uploader.offset(path) == 0
    assert uploader.patch(path, 0, bytes(1000), upload_checksum=checksum("sha1", bytes(1000))).status_code == 204


def test_one_of_two_patches_at_once_wins(uploader: Uploader) -> None:
    content = secrets.token_bytes(1 << 20)
    path = uploader.begun(len(content))
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(uploader.patch(path, 0, content).status_code)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert statuses.count(204) == 1, statuses
    assert set(statuses) <= {204, 409, 423}, statuses
    file_id = uploader.http.get(uploader.url + path).json()["file_id"]
    assert uploader.content(file_id) == content


def test_head_ends_a_patch_whose_client_is_silent_and_get_does_not(uploader: Uploader) -> None:
    path = uploader.begun(1000)
    silent = SlowPatch(uploader, path, bytes(400), 1000)
    assert uploader.patch(path, 0, b"").status_code == 423
    assert uploader.http.get(uploader.url + path).json()["offset"] == 0
    offset = uploader.offset(path)
    assert offset <= 400
    assert silent.status() == 423
    silent.close()
    assert uploader.patch(path, offset, bytes(1000 - offset)).status_code == 204


def test_only_the_account_that_began_an_upload_sees_it(uploader: Uploader, stranger: Uploader) -> None:
    path = uploader.begun(3)
    for answer in (
        stranger.ask("HEAD", path, {}),
        stranger.patch(path, 0, b"abc"),
        stranger.ask("DELETE", path, {}),
        stranger.http.get(stranger.url + path),
    ):
        assert answer.status_code == 404
    assert uploader.patch(path, 0, b"abc").status_code == 204
    assert stranger.http.get(stranger.url + path).status_code == 404


def test_an_upload_can_be_removed_and_its_file_stays(uploader: Uploader) -> None:
    path = uploader.begun(3)
    assert uploader.patch(path, 0, b"a").status_code == 204
    assert uploader.ask("DELETE", path, {}).status_code == 204
    assert uploader.ask("HEAD", path, {}).status_code == 404
    assert uploader.ask("DELETE", path, {}).status_code == 404
    answer = uploader.create(3, b"abc")
    assert uploader.ask("DELETE", answer.headers["location"], {}).status_code == 204
    assert uploader.content(answer.headers["x-artstore-file-id"]) == b"abc"


def test_post_can_stand_for_another_method(uploader: Uploader) -> None:
    path = uploader.begun(3)
    headers = {"x-http-method-override": "PATCH", "upload-offset": "0", **BYTES}
    assert uploader.ask("POST", path, headers, b"abc").headers["upload-offset"] == "3"
    assert uploader.ask("POST", path, {"x-http-method-override": "DELETE"}).status_code == 204
    assert uploader.ask("POST", path, {}).status_code == 405


def test_what_the_protocol_forbids_is_refused(uploader: Uploader) -> None:
    path = uploader.begun(10)
    cases: list[tuple[str, httpx.Response, int]] = [
        ("no version", uploader.http.head(uploader.url + path), 412),
        ("another version", uploader.ask("HEAD", path, {"tus-resumable": "0.2.2"}), 412),
        ("no length", uploader.ask("POST", "/api/uploads", {}), 400),
        ("two lengths", uploader.ask("POST", "/api/uploads", {"upload-length": "1", "upload-defer-length": "1"}), 400),
        ("bad length", uploader.ask("POST", "/api/uploads", {"upload-length": "-1"}), 400),
        ("too large", uploader.create(2**62), 413),
        ("metadata", uploader.create(1, upload_metadata="filename %%%"), 400),
        ("metadata twice", uploader.create(1, upload_metadata="filename YQ==,filename YQ=="), 422),
        ("unknown metadata", uploader.create(1, upload_metadata="color YQ=="), 422),
        ("filename", uploader.create(1, upload_metadata=metadata(filename="../a")), 422),
        ("tags", uploader.create(1, upload_metadata=metadata(tags="a")), 422),
        ("attributes", uploader.create(1, upload_metadata=metadata(metadata=json.dumps({"a": "x" * 4000}))), 422),
        ("no offset", uploader.ask("PATCH", path, BYTES, b"a"), 400),
        ("wrong offset", uploader.patch(path, 5, b"a"), 409),
        ("type", uploader.ask("PATCH", path, {"upload-offset": "0", "content-type": "text/plain"}, b"a"), 415),
        ("algorithm", uploader.patch(path, 0, b"a", upload_checksum="crc32 AAAA"), 400),
        ("beyond the length", uploader.patch(path, 0, bytes(11)), 413),
        ("another length", uploader.patch(path, 0, b"a", upload_length="11"), 400),
        ("unknown", uploader.patch(f"/api/uploads/{path[-36:]}", 0, b"a"), 404),
        ("unknown element", uploader.patch(path.rpartition(".")[0] + ".se-99", 0, b"a"), 404),
        ("encoded", uploader.patch(path, 0, b"a", content_encoding="gzip"), 415),
        ("a part of another upload", uploader.create(1, upload_concat="partial"), 400),
        ("idempotency key", uploader.create(1, b"a", idempotency_key="k"), 400),
    ]
    assert [(name, answer.status_code) for name, answer, _ in cases] == [(name, status) for name, _, status in cases]
    chunked = uploader.patch(path, 0, iter([bytes(8), bytes(8)]))
    assert chunked.status_code == 413
    assert uploader.offset(path) <= 8


@pytest.mark.parametrize("name", ["upload-length", "upload-metadata", "tus-resumable"])
def test_a_repeated_header_is_refused_because_only_one_of_its_values_could_count(uploader: Uploader, name: str) -> None:
    fields = [
        *TUS.items(),
        ("upload-length", "3"),
        ("upload-metadata", metadata(filename="a")),
        ("content-length", "0"),
    ]
    again = (name, dict(fields)[name])
    answer = uploader.http.post(uploader.url + "/api/uploads", headers=[*uploader.http.headers.items(), *fields, again])
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


def test_the_file_is_audited_like_any_other(uploader: Uploader, client: httpx.Client, system: System) -> None:
    single = uploader.http.post(
        f"{uploader.url}/api/files/upload", content=b"abc", headers={"content-type": "application/octet-stream"}
    )
    resumed = uploader.create(3, b"abc").headers["x-artstore-file-id"]
    seen = []
    for file_id in (single.json()["file_id"], resumed):
        items = client.get(f"{system.url('admin')}/api/audit", params={"resource": file_id}).json()["items"]
        seen.append([(one["action"], one["result"], one["user_id"]) for one in items])
    assert seen[0] == seen[1]
