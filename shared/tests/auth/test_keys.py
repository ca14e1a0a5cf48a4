from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from artstore.auth.keys import REFETCH_EVERY_S, RemoteKeys, parse_jwks, sign_jwks, thumbprint, to_jwk
from artstore.clock import Clock
from artstore.testing.tokens import Signer


class StoppedClock(Clock):
    """Stands where the test puts it."""

    __slots__ = ("at_s",)

    def __init__(self) -> None:
        self.at_s = 1000.0

    def monotonic_s(self) -> float:
        return self.at_s


class Source:
    """Publishes the given document, and counts the requests."""

    def __init__(self, document: bytes | None = None) -> None:
        self.document = document
        self.asked = 0

    async def fetch(self) -> bytes | None:
        self.asked += 1
        await asyncio.sleep(0)
        return self.document


FIRST, SECOND = Signer(), Signer()


def keys_of(*sources: Source, kept: Path | None = None, clock: Clock | None = None) -> RemoteKeys:
    return RemoteKeys([(f"source {n}", s.fetch) for n, s in enumerate(sources)], kept, clock or StoppedClock())


async def test_an_unknown_key_is_fetched_once_for_all_waiting_requests() -> None:
    source = Source(FIRST.jwks())
    keys = keys_of(source)
    found = await asyncio.gather(*(keys.find(FIRST.kid) for _ in range(20)))
    assert all(found)
    assert source.asked == 1


async def test_unknown_kids_cause_no_storm_and_a_rotation_is_seen() -> None:
    source, clock = Source(FIRST.jwks()), StoppedClock()
    keys = keys_of(source, clock=clock)
    for number in range(50):
        assert await keys.find(f"unknown {number}") is None
    assert source.asked == 1
    source.document = SECOND.jwks()
    clock.at_s += REFETCH_EVERY_S
    assert await keys.find(SECOND.kid)
    assert keys.valid(SECOND.kid, "tester", 0)
    assert not keys.valid(FIRST.kid, "tester", 0)
    assert await keys.find(FIRST.kid) is None


async def test_sources_are_asked_in_order_until_one_answers() -> None:
    away, redis, last = Source(None), Source(FIRST.jwks()), Source(SECOND.jwks())
    keys = keys_of(away, redis, last)
    assert await keys.find(FIRST.kid)
    assert (away.asked, redis.asked, last.asked) == (1, 1, 0)


async def test_the_last_good_keys_are_kept_for_a_start_alone(tmp_path: Path) -> None:
    kept = tmp_path / "jwks.json"
    assert await keys_of(Source(FIRST.jwks()), kept=kept).find(FIRST.kid)
    assert await keys_of(Source(None), kept=kept).find(FIRST.kid)


def copied(document: Signer, by: Signer) -> Source:
    return Source(sign_jwks(document.jwks(), by.kid, by.private))


async def test_a_copy_counts_only_when_a_known_key_has_signed_it(tmp_path: Path) -> None:
    """A stranger writes to Redis while admin is away."""
    kept = tmp_path / "jwks.json"
    kept.write_bytes(FIRST.jwks())
    wrong = [
        copied(SECOND, by=SECOND),
        Source(sign_jwks(SECOND.jwks(), FIRST.kid, SECOND.private)),
        Source(SECOND.jwks()),
        Source(FIRST.token().encode()),
        Source(b"rubbish"),
    ]
    for copy in wrong:
        keys = RemoteKeys([], kept, StoppedClock(), copy.fetch)
        assert await keys.find(SECOND.kid) is None
        assert await keys.find(FIRST.kid), "the file's keys stay"
    followed = RemoteKeys([], kept, StoppedClock(), copied(SECOND, by=FIRST).fetch)
    assert await followed.find(SECOND.kid)
    assert kept.read_bytes() == SECOND.jwks()


async def test_a_verifier_without_any_key_accepts_the_copy() -> None:
    assert await RemoteKeys([], None, StoppedClock(), copied(FIRST, by=FIRST).fetch).find(FIRST.kid)
    assert await RemoteKeys([], None, StoppedClock(), Source(FIRST.jwks()).fetch).find(FIRST.kid) is None


async def test_an_outage_takes_no_key_away() -> None:
    source = Source(FIRST.jwks())
    keys = keys_of(source)
    await keys.refresh()
    for broken in (None, b"", b"{", b"[]", b"{}", b'{"keys": []}', b'{"keys": 5}', b'{"keys": [5, null, {}]}', b"null"):
        source.document = broken
        await keys.refresh()
        assert await keys.find(FIRST.kid)


async def test_without_a_key_the_service_is_not_ready() -> None:
    source = Source(None)
    keys = keys_of(source)
    with pytest.raises(ConnectionError):
        await keys.check()
    source.document = FIRST.jwks()
    await keys.check()


def jwk(**changes: object) -> dict[str, object]:
    return {**to_jwk(FIRST.kid, FIRST.private.public_key()), **changes}


@pytest.mark.parametrize(
    "wrong",
    [
        jwk(kty="oct"),
        jwk(kty="EC"),
        jwk(alg="HS256"),
        jwk(alg="none"),
        jwk(use="enc"),
        jwk(kid="another"),
        jwk(n="AQAB"),
        jwk(n=5),
        jwk(e=None),
        {"kty": "RSA"},
    ],
    ids=str,
)
def test_what_is_no_signing_key_of_ours_is_not_taken(wrong: dict[str, object]) -> None:
    assert parse_jwks(orjson.dumps({"keys": [wrong, jwk()]})).keys() == {FIRST.kid}


def test_a_short_key_is_not_taken() -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    assert parse_jwks(orjson.dumps({"keys": [to_jwk(thumbprint(short), short)]})) == {}


def test_the_thumbprint_is_the_one_of_rfc_7638() -> None:
    """The example of §3.1."""
    example = {
        "kty": "RSA",
        "n": (
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"
            "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5"
            "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
        ),
        "e": "AQAB",
        "kid": "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
    }
    assert list(parse_jwks(orjson.dumps({"keys": [example]}))) == ["NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"]
