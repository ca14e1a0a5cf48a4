"""Signed links: what one gives, for how long, and that nothing of it can be changed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from tests.rig import Rig, running, until

from artstore.clock import Clock, parse_rfc3339, uuid7
from artstore.contracts.elements import CONFIG_CHANNEL, SNAPSHOT_KEY
from artstore.contracts.files import Attributes
from artstore.http.content_head import content_disposition
from artstore.testing.fakes import new_file, snapshot_of
from artstore.testing.links import attacks, claims_of
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


async def test_a_link_leads_straight_to_the_element_of_a_permanent_file(rig: Rig) -> None:
    """A temporary file may move to another element."""
    entries = [rig.first.entry(), rig.second.entry(public_url="https://se-02.example")]
    registry = msgspec.json.encode(msgspec.structs.replace(snapshot_of(version=2), elements=entries))
    await rig.redis.set(SNAPSHOT_KEY, registry)
    await rig.redis.publish(CONFIG_CHANNEL, registry.decode())
    await until(lambda: getattr(rig.context.discovery.find("se-02"), "public_url", None))
    temporary = new_file(b"x", "se-02", retention="temporary", expires_at="2099-01-01T00:00:00.000000Z")
    files = [rig.second.put(b"x"), rig.second.store(temporary, b"x"), rig.first.put(b"x")]
    for file, origin in zip(files, ("https://se-02.example", *2 * ["https://files.example"]), strict=True):
        url = (await make(rig, file.file_id)).json()["url"]
        assert url.startswith(f"{origin}/api/links/")
        assert (await follow(rig, url.rpartition("/")[2])).content == b"x", "query answers each"


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


async def test_a_link_is_made_once_under_a_key(rig: Rig, file: Attributes) -> None:
    path, key = f"/api/files/{file.file_id}/links", {"idempotency-key": str(uuid7())}
    first, second = [await rig.client.post(path, json={"ttl_s": 60}, headers=key) for _ in range(2)]
    assert (first.status_code, "idempotent-replayed" in first.headers) == (201, False)
    assert (second.json(), second.headers["idempotent-replayed"]) == (first.json(), "true")
    other = await rig.client.post(path, json={"ttl_s": 60}, headers={"idempotency-key": str(uuid7())})
    assert "idempotent-replayed" not in other.headers
    assert (await rig.client.post(path, json={}, headers={"idempotency-key": ""})).status_code == 422


async def test_a_file_that_does_not_exist_has_no_link(rig: Rig, signer: Signer) -> None:
    assert (await make(rig, str(uuid7()))).status_code == 404
    assert (await make(rig, "..%2f")).status_code == 404
    assert (await follow(rig, signer.link(ACCOUNT, str(uuid7())))).status_code == 404


async def test_no_part_of_a_link_can_be_changed(rig: Rig, file: Attributes, signer: Signer) -> None:
    other = rig.first.put(b"another file")
    assert (await follow(rig, signer.link(ACCOUNT, file.file_id))).status_code == 200
    for attack in attacks(signer, ACCOUNT, file.file_id, other.file_id):
        assert await refused(rig, attack) == "the link is not valid", attack


async def test_another_spelling_of_the_path_is_the_same_link_or_none(
    rig: Rig, file: Attributes, signer: Signer
) -> None:
    link = signer.link(ACCOUNT, file.file_id)
    assert (await follow(rig, link.replace(".", "%2E"))).status_code == 200  # RFC 3986 §6.2.2.2
    assert await refused(rig, link.replace(".", "%252E")) == "the link is not valid"
    assert (await follow(rig, link + "/")).status_code == 404
    assert (await follow(rig, f"{link}%2Fcontent")).status_code == 404
    assert (await follow(rig, "x" * 9000)).status_code == 414


async def test_a_link_is_no_token(rig: Rig, file: Attributes, signer: Signer) -> None:
    link = signer.link(ACCOUNT, file.file_id)
    with_link = await rig.client.get(f"/api/files/{file.file_id}", headers={"authorization": f"Bearer {link}"})
    assert with_link.status_code == 401


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
