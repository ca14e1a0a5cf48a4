"""Signed links that lead straight to an element, at a port that answers nothing else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from artstore.auth.access import ENDPOINTS
from artstore.clock import Clock, uuid7
from artstore.contracts.tokens import Audience
from artstore.http.content_head import content_disposition
from artstore.testing.links import attacks, claims_of
from artstore.testing.services import free_port
from artstore.testing.tokens import Signer

from ..running import Answer, Neighbours, RunningElement, eventually, running_element

ACCOUNT = str(uuid7())
CONTENT = os.urandom(200_000)
PORT = free_port()
SETTINGS = {
    "ELEMENT_PUBLIC_URL": f"http://127.0.0.1:{PORT}/",
    "ELEMENT_PUBLIC_PORT": str(PORT),
    "JWKS_REFRESH_S": "0.2",
    "IP_RATE_LIMIT_PER_MINUTE": "1000000",
    "TRUSTED_PROXIES": "127.0.0.1",
}


@pytest.fixture(scope="module")
async def element(neighbours: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningElement]:
    root = tmp_path_factory.mktemp("public") / "se-01"
    async with running_element(neighbours, root, **SETTINGS) as element:
        yield element


@pytest.fixture(scope="module")
async def file(element: RunningElement) -> dict[str, Any]:
    record: dict[str, Any] = (await element.put(CONTENT)).json
    return record


async def follow(link: str, method: str = "GET", **headers: str) -> Answer:
    """Without a token, at the public address."""
    return await ask(method, f"/api/links/{link}", **headers)


async def ask(method: str, path: str, **headers: str) -> Answer:
    async with (
        aiohttp.ClientSession(base_url=f"http://127.0.0.1:{PORT}") as stranger,
        stranger.request(method, path, headers=headers, allow_redirects=False) as response,
    ):
        fields = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, fields, await response.read())


async def refused(link: str) -> str:
    answer = await follow(link)
    assert (answer.status, answer.json["code"]) == (403, "link_refused"), answer.body
    return str(answer.json["detail"])


async def test_a_link_gives_the_file_under_conditions_and_in_ranges(file: dict[str, Any], signer: Signer) -> None:
    link = signer.link(ACCOUNT, file["file_id"])
    whole = await follow(link)
    assert (whole.status, whole.body) == (200, CONTENT)
    assert whole.headers["etag"] == f'"{file["checksum"]}"'
    assert whole.headers["content-disposition"] == content_disposition(file["filename"])
    for name in ("last-modified", "repr-digest", "content-security-policy", "accept-ranges"):
        assert name in whole.headers
    assert (whole.headers["x-content-type-options"], whole.headers["cache-control"]) == ("nosniff", "private, no-cache")
    part = await follow(link, range="bytes=5-9")
    assert (part.status, part.body, part.headers["content-range"]) == (206, CONTENT[5:10], f"bytes 5-9/{len(CONTENT)}")
    assert (await follow(link, range="bytes=5-9", **{"if-range": '"other"'})).status == 200
    head = await follow(link, "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    assert (await follow(link, **{"if-none-match": whole.headers["etag"]})).status == 304
    assert (await follow(link, **{"if-modified-since": whole.headers["last-modified"]})).status == 304
    assert (await follow(link, **{"if-match": '"other"'})).status == 412
    assert (await follow(link, range="bytes=900000-")).status == 416
    shown = await follow(signer.link(ACCOUNT, file["file_id"], disposition="inline") + "?disposition=attachment")
    safe = file["content_type"] in ("text/plain", "application/pdf")
    assert shown.headers["content-disposition"].startswith("inline;" if safe else "attachment;")


async def test_no_part_of_a_link_can_be_changed(element: RunningElement, file: dict[str, Any], signer: Signer) -> None:
    other = (await element.put(b"another file")).json
    for attack in attacks(signer, ACCOUNT, file["file_id"], other["file_id"]):
        assert await refused(attack) == "the link is not valid", attack
    now_ms = int(1000 * Clock().unix_s())
    assert await refused(signer.link(ACCOUNT, file["file_id"], expires_at_ms=now_ms)) == "the link has expired"
    ahead = signer.link(ACCOUNT, file["file_id"], issued_at_s=now_ms // 1000 + 300, expires_at_ms=now_ms + 60_000)
    assert (await follow(ahead)).status == 200, "signed by an admin whose clock is ahead"
    assert (await follow(signer.link(ACCOUNT, str(uuid7())))).status == 404


async def test_nothing_else_is_answered_at_the_public_port(
    element: RunningElement, file: dict[str, Any], signer: Signer
) -> None:
    """With a token neither: the other doors are those of the private port."""
    token = {"authorization": element.session.headers["authorization"]}
    for endpoint in ENDPOINTS[Audience.STORAGE]:
        method, _, path = endpoint.partition(" ")
        if not path.startswith("/api/links"):
            known = path.replace("{file_id}", file["file_id"]).replace("{name}", "start.js")
            assert (await ask(method, known)).status == 404, endpoint
            assert (await ask(method, known, **token)).status == 404, endpoint
    link = signer.link(ACCOUNT, file["file_id"])
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert (await follow(link, method)).status in (404, 405)
    assert (await ask("GET", "/api/links")).status == (await ask("GET", "/")).status == 404
    with_link = await ask("GET", f"/api/files/{file['file_id']}/content", authorization=f"Bearer {link}")
    assert with_link.status == 404
    assert (await element.ask("GET", "/metrics")).status == 200, "at the private port as ever"


async def test_the_address_is_reported(element: RunningElement, neighbours: Neighbours) -> None:
    assert neighbours.admin.reports[-1].public_url == SETTINGS["ELEMENT_PUBLIC_URL"].rstrip("/")


async def test_links_of_a_suspended_account_or_an_old_key_are_void(file: dict[str, Any], signer: Signer) -> None:
    void = signer.link(ACCOUNT, file["file_id"])
    kept = signer.link(str(uuid7()), file["file_id"])
    signer.revoked.accounts[ACCOUNT] = claims_of(void)["issued_at_s"]

    async def is_refused(link: str) -> bool:
        return (await follow(link)).status == 403

    await eventually(lambda: is_refused(void))
    assert await refused(void) == "the link was revoked"
    assert (await follow(kept)).status == 200
    signer.new_link_key()
    await eventually(lambda: is_refused(kept))
    new = signer.link(str(uuid7()), file["file_id"])
    await eventually(lambda: is_read(new))


async def is_read(link: str) -> bool:
    return (await follow(link)).status == 200


async def test_damaged_bytes_are_never_complete(element: RunningElement, file: dict[str, Any], signer: Signer) -> None:
    damaged = (await element.put(os.urandom(3 << 20))).json
    path = element.root / "files" / damaged["file_id"][-4:-2] / damaged["file_id"][-2:] / damaged["file_id"]
    with path.open("r+b") as data:
        data.seek(1 << 20)
        data.write(b"damage")
    link = signer.link(str(uuid7()), damaged["file_id"])
    with pytest.raises(aiohttp.ClientPayloadError):
        await follow(link)

    async def is_quarantined() -> bool:
        try:
            return (await follow(link)).status == 410
        except aiohttp.ClientPayloadError:
            return False

    await eventually(is_quarantined)


async def test_an_archive_answers_links_within_the_limits(
    neighbours: Neighbours, tmp_path: Path, signer: Signer
) -> None:
    async with running_element(neighbours, tmp_path / "root") as element:
        file_id = (await element.put(CONTENT)).json["file_id"]
        link = signer.link(str(uuid7()), file_id)
        assert (await element.ask("GET", f"/api/links/{link}")).body == CONTENT
    settings = {"STORAGE_MODE": "ar", "IP_RATE_LIMIT_PER_MINUTE": "6"}
    async with (
        running_element(neighbours, tmp_path / "root", **settings) as archive,
        aiohttp.ClientSession() as stranger,
    ):
        statuses = []
        for _ in range(6):
            async with stranger.get(f"{archive.url}/api/links/{link}", headers={"range": "bytes=1-3"}) as answer:
                statuses.append(answer.status)
                assert answer.status == 429 or await answer.read() == CONTENT[1:4]
        assert statuses[0] == 206
        assert 429 in statuses, "the address is limited, though the link is right"
