"""The content of a PUT at an element itself, in every way it may arrive: taken whole or refused."""

from __future__ import annotations

import pytest
from support.sockets import exchange, request
from support.system import System

from artstore.clock import uuid7
from artstore.contracts.files import NewFile
from artstore.contracts.storage import NEW_FILE_HEADER, SAGA_HEADER, encode_new_file

CONTENT = b"first line\r\n\r\nGET /health/live HTTP/1.1\r\nhost: x\r\n\r\nlast line"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
UPGRADE = ["connection: Upgrade", "upgrade: h2c"]
LENGTH, NONE = f"content-length: {len(CONTENT)}", "content-length: 0"
NEW = NewFile(
    filename="a", content_type="text/plain", owner="test", tags=[], metadata={}, retention="permanent", expires_at=None
)


@pytest.mark.parametrize(
    ("fields", "content", "status"),
    [
        ([*UPGRADE, LENGTH], CONTENT, 201),
        ([*UPGRADE, "transfer-encoding: chunked"], CHUNKED, 201),
        ([NONE], b"", 201),
        ([], b"", 411),
        ([f"content-length: {len(CONTENT) + 1}"], CONTENT, 400),
        ([*UPGRADE, f"content-length: {len(CONTENT) + 1}"], CONTENT, 400),
        (["content-encoding: gzip", LENGTH], CONTENT, 415),
        (["transfer-encoding: gzip, chunked"], CHUNKED, 501),
        (["if-none-match: *", NONE], b"", 400),
        (["if-match: *", NONE], b"", 400),
        (["content-digest: sha-256=:x:", NONE], b"", 400),
        (["repr-digest: sha-512=:x:", NONE], b"", 400),
        (["content-range: bytes 0-0/1", NONE], b"", 400),
    ],
)
@pytest.mark.parametrize("split", [False, True], ids=["one-write", "two-writes"])
def test_an_element_takes_content_whole_or_not_at_all(
    system: System, fields: list[str], content: bytes, status: int, split: bool
) -> None:
    token = system.token("ingester", (system.keys / "ingester.secret").read_text().strip())
    file_id = str(uuid7())
    stated = [f"{SAGA_HEADER}: {uuid7()}", f"{NEW_FILE_HEADER}: {encode_new_file(NEW)}", *fields]
    head, content = request("PUT", f"/api/files/{file_id}", token, stated, content)
    pieces = [head, content] if split else [head + content]
    assert [one.status for one in exchange(system, "se-01", *pieces, half_close=True)] == [status]
    get, _ = request("GET", f"/api/files/{file_id}/content", token)
    (now,) = exchange(system, "se-01", get)
    if status == 201:
        assert (now.status, now.body) == (200, CONTENT if content else b"")
    else:
        assert now.status == 404
