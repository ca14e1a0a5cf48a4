"""Signed links: what one gives, for how long, and that nothing of it can be changed."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.rig import Rig, running, until

from app.reading.headers import content_disposition
from artstore.clock import Clock, parse_rfc3339, uuid7
from artstore.contracts.files import Attributes
from artstore.testing.fakes import new_file
from artstore.testing.services import PostgresServer, ValkeyServer
from artstore.testing.tokens import Signer

CONTENT = os.urandom(200_000)
ACCOUNT = str(uuid7())


@pytest.fixture(scope="module")
async def rig(postgres: PostgresServer, valkey: ValkeyServer, signer: Signer) -> AsyncIterator[Rig]:
    async with running(
        postgres, valkey, signer, public_url="https://files.example/", ip_rate_limit_per_minute=10**6
    ) as it:
        yield it


@pytest.fixture(scope="module")
def file(rig: Rig) -> Attributes:
    return rig.first.put(CONTENT)


async def follow(rig: Rig, link: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Without a token."""
    async with httpx.AsyncClient(base_url=rig.client.base_url, timeout=120) as stranger:
        return await stranger.request(method, f"/api/links/{link}", headers=headers)


async def make(rig: Rig, file_id: str, **wanted: Any) -> httpx.Response:
    return await rig.client.post(f"/api/files/{file_id}/links", json=wanted)


async def refused(rig: Rig, link: str) -> str:
    answer = await follow(rig, link)
    assert (answer.status_code, answer.json()["code"]) == (403, "link_refused"), answer.text
    return str(answer.json()["detail"])


def claims_of(link: str) -> dict[str, Any]:
    part = link.partition(".")[0]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def forged(link: str, **claims: Any) -> str:
    changed = json.dumps({**claims_of(link), **claims}, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(changed).rstrip(b"=").decode() + "." + link.partition(".")[2]


async def test_a_link_gives_what_a_download_gives(rig: Rig, file: Attributes) -> None:
    made = await make(rig, file.file_id, ttl_s=60)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    url = made.json()["url"]
    assert url.startswith("https://files.example/api/links/")
    left_s = parse_rfc3339(made.json()["expires_at"]).timestamp() - Clock().unix_s()
    assert 0 < left_s <= 60
    link = url.rpartition("/")[2]
    with_token = await rig.get(f"/api/files/{file.file_id}/content")
    whole = await follow(rig, link)
    assert (whole.status_code, whole.content) == (200, CONTENT)
    names = ("etag", "content-length", "content-disposition", "content-type", "cache-control", "x-content-type-options",
             "last-modified", "accept-ranges", "content-security-policy", "repr-digest")  # fmt: skip
    assert [whole.headers[name] for name in names] == [with_token.headers[name] for name in names]
    part = await follow(rig, link, range="bytes=5-9")
    assert (part.status_code, part.content) == (206, CONTENT[5:10])
    head = await follow(rig, link, "HEAD")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    known = await follow(rig, link, **{"if-none-match": f'"{file.checksum}"'})
    assert (known.status_code, known.content) == (304, b"")
    beyond = await follow(rig, link, range="bytes=900000-")
    assert beyond.status_code == 416


async def test_the_name_and_disposition_are_those_of_the_link(rig: Rig) -> None:
    types = {"application/pdf": b"inline;", "image/svg+xml": b"attachment;", "text/html; charset=utf-8": b"attachment;"}
    for content_type, expected in types.items():
        file = rig.first.store(new_file(b"x", "se-01", content_type=content_type), b"x")
        link = (await make(rig, file.file_id, disposition="inline")).json()["url"].rpartition("/")[2]
        answer = await follow(rig, f"{link}?disposition=attachment&filename=other.exe")
        assert answer.status_code == 200
        shown = answer.headers["content-disposition"]
        assert shown == content_disposition(file.filename).replace("attachment", expected.decode().rstrip(";"), 1)


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({"ttl_s": 0}, 422),
        ({"ttl_s": 7 * 24 * 3600 + 1}, 422),
        ({"ttl_s": "60"}, 422),
        ({"ttl_s": True}, 422),
        ({"disposition": "other"}, 422),
        ({"filename": "x"}, 422),
        ({}, 201),
        ({"ttl_s": 7 * 24 * 3600}, 201),
    ],
)
async def test_what_a_link_may_be(rig: Rig, file: Attributes, wanted: dict[str, Any], status: int) -> None:
    assert (await make(rig, file.file_id, **wanted)).status_code == status


async def test_a_file_that_does_not_exist_has_no_link(rig: Rig, signer: Signer) -> None:
    assert (await make(rig, str(uuid7()))).status_code == 404
    assert (await make(rig, "..%2f")).status_code == 404
    assert (await follow(rig, signer.link(ACCOUNT, str(uuid7())))).status_code == 404


async def test_no_part_of_a_link_can_be_changed(rig: Rig, file: Attributes, signer: Signer) -> None:
    other = rig.first.put(b"another file")
    link = signer.link(ACCOUNT, file.file_id)
    assert (await follow(rig, link)).status_code == 200
    changed = {
        "file_id": other.file_id,
        "expires_at_ms": claims_of(link)["expires_at_ms"] + 1,
        "disposition": "inline",
        "account": str(uuid7()),
        "issued_at_s": claims_of(link)["issued_at_s"] + 1,
        "kid": "another",
    }
    for name, value in changed.items():
        assert await refused(rig, forged(link, **{name: value})) == "the link is not valid", name
    claims, _, signature = link.partition(".")
    stolen = signer.link(ACCOUNT, other.file_id).partition(".")[2]
    padded = base64.urlsafe_b64encode(base64.urlsafe_b64decode(signature + "==")).decode()
    for variant in (
        claims, f"{claims}.", f".{signature}", f"{claims}.{stolen}", f"{claims}.{signature[:-1]}",
        f"{claims}.{padded}", f"{claims}.{signature}.", f"{claims}.{signature}A", f"{signature}.{claims}",
        link.replace(".", ".."), forged(link, more="x"), forged(link, expires_at_ms=None),
        forged(link, expires_at_ms=1e18), forged(link, file_id=["x"]), "x" * 5000, "e30.e30", "%00", "%C3%A9.%C3%A9",
    ):  # fmt: skip
        assert await refused(rig, variant) == "the link is not valid", variant
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if last != signature[-1]:
            await refused(rig, link[:-1] + last)


async def test_another_spelling_of_the_path_is_the_same_link_or_none(
    rig: Rig, file: Attributes, signer: Signer
) -> None:
    link = signer.link(ACCOUNT, file.file_id)
    assert (await follow(rig, link.replace(".", "%2E"))).status_code == 200  # RFC 3986 §6.2.2.2
    assert await refused(rig, link.replace(".", "%252E")) == "the link is not valid"
    assert (await follow(rig, link + "/")).status_code == 404
    assert (await follow(rig, f"{link}%2Fcontent")).status_code == 404
    assert (await follow(rig, "x" * 9000)).status_code == 414


async def test_a_link_of_another_key_is_refused(rig: Rig, file: Attributes) -> None:
    assert await refused(rig, Signer().link(ACCOUNT, file.file_id)) == "the link is not valid"


async def test_a_link_is_no_token_and_a_token_no_link(rig: Rig, file: Attributes, signer: Signer) -> None:
    link = signer.link(ACCOUNT, file.file_id)
    with_link = await rig.client.get(f"/api/files/{file.file_id}", headers={"authorization": f"Bearer {link}"})
    assert with_link.status_code == 401
    assert await refused(rig, signer.token()) == "the link is not valid"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_link_only_reads(rig: Rig, file: Attributes, signer: Signer, method: str) -> None:
    answer = await follow(rig, signer.link(ACCOUNT, file.file_id), method)
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


async def test_a_link_ends_by_the_clock_of_query_whatever_admins_says(
    rig: Rig, file: Attributes, signer: Signer
) -> None:
    now_ms = int(1000 * Clock().unix_s())
    assert await refused(rig, signer.link(ACCOUNT, file.file_id, expires_at_ms=now_ms)) == "the link has expired"
    ahead = signer.link(ACCOUNT, file.file_id, issued_at_s=now_ms // 1000 + 300, expires_at_ms=now_ms + 60_000)
    assert (await follow(rig, ahead)).status_code == 200, "signed by an admin whose clock is ahead"
    made = (await make(rig, file.file_id, ttl_s=1)).json()
    link, ends_s = made["url"].rpartition("/")[2], parse_rfc3339(made["expires_at"]).timestamp()
    status = 200
    while status == 200:
        before_s = Clock().unix_s()
        status = (await follow(rig, link)).status_code
        assert status == (200 if Clock().unix_s() < ends_s else 403) or before_s < ends_s <= Clock().unix_s()


async def test_links_of_a_suspended_account_or_an_old_key_are_void(
    postgres: PostgresServer, valkey: ValkeyServer
) -> None:
    signer = Signer()
    async with running(postgres, valkey, signer, jwks_refresh_s=0.2) as rig:
        file = rig.first.put(CONTENT)
        void, kept = signer.link(ACCOUNT, file.file_id), signer.link(str(uuid7()), file.file_id)
        assert [(await follow(rig, link)).status_code for link in (void, kept)] == [200, 200]
        signer.revoked.accounts[ACCOUNT] = claims_of(void)["issued_at_s"]

        async def is_void() -> bool:
            return (await follow(rig, void)).status_code == 403

        await until(is_void)
        assert await refused(rig, void) == "the link was revoked"
        assert (await follow(rig, kept)).status_code == 200
        later = signer.link(ACCOUNT, file.file_id, issued_at_s=claims_of(void)["issued_at_s"] + 1)
        assert (await follow(rig, later)).status_code == 200, "made after the account was used again"
        signer.new_link_key()

        async def key_is_gone() -> bool:
            return (await follow(rig, kept)).status_code == 403

        await until(key_is_gone)
        assert (await follow(rig, signer.link(ACCOUNT, file.file_id, issued_at_s=2**31))).status_code == 200


async def test_an_address_is_limited_before_its_link_is_looked_at(
    postgres: PostgresServer, valkey: ValkeyServer
) -> None:
    signer = Signer()
    async with running(postgres, valkey, signer, ip_rate_limit_per_minute=6) as rig:
        file = rig.first.put(CONTENT)
        link = signer.link(ACCOUNT, file.file_id)
        answers = [await follow(rig, link) for _ in range(6)]
        assert [answer.status_code for answer in answers].count(429) >= 2
        assert "retry-after" in answers[-1].headers
        hidden = await follow(rig, link, authorization="Bearer nonsense")
        assert hidden.status_code == 429, "a header that the endpoint does not check evades nothing"
