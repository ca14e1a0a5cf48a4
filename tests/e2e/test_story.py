"""A document goes in and comes out, through all four services, over real HTTP between real processes."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.bodies import Body, sha256_of
from support.fleet import eventually
from support.system import OFFSETS, System

RECORD_FIELDS = {
    "schema_version", "file_id", "revision", "filename", "content_type", "size_bytes", "checksum", "storage_element_id",
    "created_at", "updated_at", "owner", "tags", "metadata", "retention", "expires_at",
}  # fmt: skip


def upload(client: httpx.Client, system: System, content: bytes, name: str, **params: Any) -> dict[str, Any]:
    """Multipart, as a browser or curl -F does."""
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload", files={"file": (name, content, "application/pdf")}, params=params
    )
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def download(client: httpx.Client, system: System, file_id: str, **headers: str) -> httpx.Response:
    return client.get(f"{system.url('query')}/api/files/{file_id}/content", headers=headers)


def test_a_document_is_found_by_its_words(client: httpx.Client, system: System) -> None:
    name = f"Договоры_{os.urandom(4).hex()}.pdf"
    parts: Any = [("tags", (None, '["аренда офиса"]')), ("file", (name, b"x", "application/pdf"))]
    record = client.post(f"{system.url('ingester')}/api/files/upload", files=parts).json()

    def found(q: str) -> list[Any]:
        answer = client.get(f"{system.url('query')}/api/files", params={"q": q, "filename": name})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])

    eventually(lambda: found("договор АРЕНДЫ оф"))
    assert found("договор АРЕНДЫ оф") == [record]
    assert found("договор -аренда") == []


def test_a_multipart_upload_comes_back_byte_for_byte(client: httpx.Client, system: System) -> None:
    content = os.urandom(200_000)
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload",
        files=[
            ("tags", (None, '["contract", "2026"]')),
            ("metadata", (None, '{"number": "5"}')),
            ("file", ("Договор №5.pdf", content, "application/pdf")),
        ],
    )
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert record.keys() == RECORD_FIELDS
    assert answer.headers["location"].endswith(f"/api/files/{record['file_id']}")
    assert record["filename"] == "Договор №5.pdf"
    assert record["tags"] == ["contract", "2026"]
    assert record["metadata"] == {"number": "5"}
    assert record["retention"] == "permanent"
    assert record["owner"] == system.credentials()["client_id"]
    assert record["checksum"] == "sha256:" + hashlib.sha256(content).hexdigest()
    found = client.get(f"{system.url('query')}/api/files/{record['file_id']}")
    assert found.json() == record
    assert found.headers["x-artstore-source"] in {"memory", "redis", "database", "attributes"}
    got = download(client, system, record["file_id"])
    assert got.content == content
    assert got.headers["etag"].strip('"') == record["checksum"]
    assert "filename*=UTF-8''" in got.headers["content-disposition"]


def test_the_location_of_a_stored_file_leads_to_it(client: httpx.Client, system: System) -> None:
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload", params={"filename": "a b.txt"}, content=b"x",
        headers={"content-type": "text/plain"},
    )  # fmt: skip
    for path, content in (("", None), ("/content?disposition=attachment", b"x")):
        at_ingester = f"{system.url('ingester')}{answer.headers['location']}{path}"
        for method in ("GET", "HEAD"):
            redirect = client.request(method, at_ingester)
            assert (redirect.status_code, redirect.content) == (307, b"")
            assert redirect.headers["location"] == f"{system.address}{answer.headers['location']}{path}"
        followed = client.get(redirect.headers["location"])
        assert followed.status_code == 200
        assert followed.content == content or followed.json() == answer.json()


def test_a_raw_body_is_a_file_too(client: httpx.Client, system: System) -> None:
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload",
        params={"filename": "notes.txt", "tags": '["raw"]', "metadata": '{"kind": "note"}'},
        content=b"three words here",
        headers={"content-type": "text/plain"},
    )
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert (record["filename"], record["content_type"], record["tags"]) == ("notes.txt", "text/plain", ["raw"])
    assert download(client, system, record["file_id"]).content == b"three words here"


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, (1 << 20) + 1])
def test_every_size_comes_back(client: httpx.Client, system: System, size: int) -> None:
    content = os.urandom(size)
    record = upload(client, system, content, f"{size}.bin")
    assert record["size_bytes"] == size
    assert download(client, system, record["file_id"]).content == content


@pytest.mark.parametrize(
    "name", ["Отчёт за год.docx", "📄🔥.txt", "a" * 255, "ы" * 127, 'say "hi"; x=1.txt', "percent%20 sign+.txt"]
)
def test_every_name_comes_back(client: httpx.Client, system: System, name: str) -> None:
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload", params={"filename": name}, content=b"x",
        headers={"content-type": "application/octet-stream"},
    )  # fmt: skip
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert record["filename"] == name
    assert client.get(f"{system.url('query')}/api/files/{record['file_id']}").json()["filename"] == name
    assert download(client, system, record["file_id"]).status_code == 200


def test_two_gibibytes_pass_through_flat_memory(client: httpx.Client, system: System) -> None:
    body = Body(2 << 30)
    forget_peaks(system)
    before = resident_bytes(system)
    answer = client.post(
        f"{system.url('ingester')}/api/files/upload",
        params={"filename": "large.bin"},
        content=iter(body),
        headers={"content-type": "application/octet-stream", "content-length": str(body.size_bytes)},
        timeout=300,
    )
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert record["checksum"] == f"sha256:{body.sha256}"
    with client.stream("GET", f"{system.url('query')}/api/files/{record['file_id']}/content", timeout=300) as got:
        assert sha256_of(got.iter_raw(1 << 20)) == (body.sha256, body.size_bytes)
    for service, after in resident_bytes(system).items():
        grown_mib = (after - before[service]) / (1 << 20)
        print(f"memory of {service}: {grown_mib:+.1f} MiB at its peak")
        assert grown_mib < 64, f"{service} grew by {grown_mib:.0f} MiB"


def forget_peaks(system: System) -> None:
    """From here on VmHWM is the peak since now (proc_pid_clear_refs(5), 5)."""
    if system.data is not None:
        for process in json.loads((system.data / "running.json").read_text())["processes"].values():
            Path(f"/proc/{process['pid']}/clear_refs").write_text("5")


def resident_bytes(system: System) -> dict[str, int]:
    """The peak resident set of each service, from /proc. Empty for a system in containers."""
    if system.data is None:
        return {}
    peaks = {}
    running = json.loads((system.data / "running.json").read_text())["processes"]
    for name in OFFSETS:
        status = Path(f"/proc/{running[name]['pid']}/status").read_text()
        peaks[name] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    assert peaks
    return peaks


def test_ten_uploads_at_once_all_arrive(client: httpx.Client, system: System) -> None:
    contents = [os.urandom(10_000 + number) for number in range(10)]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        records = list(pool.map(lambda content: upload(client, system, content, f"{len(content)}.bin"), contents))
    assert len({record["file_id"] for record in records}) == 10
    for record, content in zip(records, contents, strict=True):
        assert download(client, system, record["file_id"]).content == content


def test_a_repeat_under_a_key_of_a_file_with_an_id_of_its_client_gets_the_first_answer(
    client: httpx.Client, system: System
) -> None:
    url = f"{system.url('ingester')}/api/files/{uuid.uuid4()}"
    new, keyed = {"if-none-match": "*"}, {"if-none-match": "*", "idempotency-key": str(uuid.uuid4())}
    first, again = [client.put(url, content=b"content", headers=keyed) for _ in range(2)]
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content), again.text
    assert again.headers["idempotent-replayed"] == "true"
    assert client.put(url, content=b"other", headers=keyed).json()["code"] == "idempotency_key_reused"
    for headers in (new, {**new, "idempotency-key": str(uuid.uuid4())}):
        refused = client.put(url, content=b"content", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (412, "revision_mismatch")


def test_a_range_is_answered_with_just_that(client: httpx.Client, system: System) -> None:
    content = os.urandom(100_000)
    file_id = upload(client, system, content, "ranges.bin")["file_id"]
    part = download(client, system, file_id, range="bytes=10-19")
    assert (part.status_code, part.content) == (206, content[10:20])
    assert part.headers["content-range"] == "bytes 10-19/100000"
    assert download(client, system, file_id, range="bytes=-5").content == content[-5:]
    outside = download(client, system, file_id, range="bytes=100000-")
    assert (outside.status_code, outside.headers["content-range"]) == (416, "bytes */100000")
    unchanged = download(client, system, file_id, **{"if-none-match": part.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_the_list_goes_on_where_it_stopped(client: httpx.Client, system: System) -> None:
    tag = f"listed-{os.urandom(4).hex()}"
    expected = {upload(client, system, b"x", f"{n}.txt", tags=json.dumps([tag]))["file_id"] for n in range(5)}
    found: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, str | int] = {"tag": tag, "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = client.get(f"{system.url('query')}/api/files", params=params).json()
        assert len(page["items"]) <= 2
        found += [item["file_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(found) == 5
    assert set(found) == expected


def test_a_temporary_file_lies_on_an_edit_element_and_can_be_deleted(client: httpx.Client, system: System) -> None:
    record = upload(client, system, b"soon gone", "draft.txt", retention="temporary", ttl_days=2)
    assert record["storage_element_id"] == "se-01"
    assert record["expires_at"] is not None
    answer = client.delete(f"{system.url('ingester')}/api/files/{record['file_id']}")
    assert answer.status_code == 204, answer.text
    assert client.get(f"{system.url('query')}/api/files/{record['file_id']}").status_code == 404
    assert download(client, system, record["file_id"]).status_code == 404


def test_a_temporary_file_lives_longer_and_then_for_ever(client: httpx.Client, system: System) -> None:
    content = os.urandom(100_000)
    record = upload(client, system, content, "draft.txt", retention="temporary", ttl_days=2, tags='["draft"]')
    address = f"{system.url('ingester')}/api/files/{record['file_id']}"
    extended = client.patch(address, json={"ttl_days": 20, "tags": []}).json()
    days = datetime.fromisoformat(extended["expires_at"]) - datetime.fromisoformat(record["expires_at"])
    assert (round(days / timedelta(days=1)), extended["tags"], extended["revision"]) == (18, [], 2)

    queued = client.patch(address, json={"retention": "permanent"}, headers={"if-match": '"2"'})
    assert queued.status_code == 202, queued.text

    def finished() -> dict[str, Any]:
        saga: dict[str, Any] = client.get(system.url("ingester") + queued.headers["location"]).json()
        return saga if saga["due_at"] is None else {}

    saga = eventually(finished)
    assert (saga["kind"], saga["state"]) == ("move", "committed")
    kept = client.get(f"{system.url('query')}/api/files/{record['file_id']}").json()
    same = ("filename", "content_type", "checksum", "created_at", "owner", "metadata")
    assert [kept[name] for name in same] == [record[name] for name in same]
    assert (kept["retention"], kept["expires_at"], kept["storage_element_id"]) == ("permanent", None, "se-02")
    assert download(client, system, record["file_id"]).content == content
    assert client.patch(address, json={"retention": "permanent"}).json() == kept, "it is permanent already"
    assert client.patch(address, json={"ttl_days": 5}).status_code == 409
    assert client.delete(address).json()["code"] == "mode_forbids"


def test_a_client_reads_what_it_has_just_changed(client: httpx.Client, system: System) -> None:
    record_url = f"{system.url('query')}/api/files"
    for number in range(10):
        file_id = upload(client, system, b"first", "draft.txt", retention="temporary")["file_id"]
        assert client.get(f"{record_url}/{file_id}").json()["revision"] == 1
        changed = client.patch(f"{system.url('ingester')}/api/files/{file_id}", json={"filename": f"{number}.txt"})
        assert changed.status_code == 200, changed.text
        assert client.get(f"{record_url}/{file_id}").json() == changed.json()
        content = client.put(f"{system.url('ingester')}/api/files/{file_id}/content", content=b"second")
        assert content.status_code == 200, content.text
        assert client.get(f"{record_url}/{file_id}").json() == content.json()
        assert download(client, system, file_id).content == b"second"
        assert client.delete(f"{system.url('ingester')}/api/files/{file_id}").status_code == 204
        assert client.get(f"{record_url}/{file_id}").status_code == 404


def test_a_damaged_file_takes_nothing_with_it(client: httpx.Client, system: System) -> None:
    if system.data is None:
        return  # the containers' disks are not in reach
    damaged, sound = (upload(client, system, name.encode(), f"{name}.txt") for name in ("damaged", "sound"))
    assert damaged["storage_element_id"] == sound["storage_element_id"]
    file_id = damaged["file_id"]
    folder = system.data / "elements" / damaged["storage_element_id"] / "files" / file_id[-4:-2] / file_id[-2:]
    (folder / f"{file_id}.attr.json").write_bytes(b"{")
    for _ in range(7):
        answer = download(client, system, file_id)
        assert (answer.status_code, answer.json()["code"]) == (500, "file_damaged")
    assert download(client, system, sound["file_id"]).content == b"sound"


def test_a_permanent_file_cannot_be_deleted(client: httpx.Client, system: System) -> None:
    record = upload(client, system, b"to stay", "deed.txt")
    answer = client.delete(f"{system.url('ingester')}/api/files/{record['file_id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "mode_forbids")
    assert download(client, system, record["file_id"]).content == b"to stay"


def test_attributes_lie_beside_the_file_as_designed(client: httpx.Client, system: System) -> None:
    if system.data is None:
        listed = client.get(f"{system.url('se-02')}/api/files", params={"limit": 1}).json()["items"]
        assert (
            listed[0].keys() == RECORD_FIELDS
        )  # the containers' disks are not in reach: the element shows what is stored
        return
    record = upload(client, system, b"on disk", "disk.txt")
    file_id = record["file_id"]
    folder = system.data / "elements" / record["storage_element_id"] / "files" / file_id[-4:-2] / file_id[-2:]
    assert (folder / file_id).read_bytes() == b"on disk"
    encoded = (folder / f"{file_id}.attr.json").read_bytes()
    assert json.loads(encoded) == record
    assert list(json.loads(encoded)) == sorted(record)


def test_every_element_has_announced_itself(client: httpx.Client, system: System) -> None:
    listed = client.get(f"{system.url('admin')}/api/storage-elements").json()["items"]
    assert {element["id"]: element["mode"] for element in listed} == {"se-01": "edit", "se-02": "rw", "se-03": "rw"}
    assert {element["status"] for element in listed} == {"online"}
