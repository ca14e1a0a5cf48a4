"""Every token that admin did not issue is refused, whatever it looks like."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from hypothesis import given
from hypothesis import strategies as st

from artstore.auth.tokens import MAX_TOKEN_BYTES, TokenVerifier
from artstore.clock import Clock
from artstore.contracts.tokens import Audience, Permission, Role
from artstore.errors import Unauthenticated
from artstore.testing.tokens import Signer

SIGNER = Signer()
OTHER = Signer()
NOW_S = int(time.time())


def b64(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


def public_pem() -> bytes:
    public = SIGNER.private.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def hs256_with_the_public_key() -> str:
    """Algorithm confusion (RFC 8725 §2.1): signed with what everybody knows. PyJWT refuses to make it, so by hand."""
    head = b64({"alg": "HS256", "typ": "at+jwt", "kid": SIGNER.kid})
    signed = f"{head}.{b64(SIGNER.claims())}".encode()
    mac = hmac.new(public_pem(), signed, hashlib.sha256).digest()
    return f"{signed.decode()}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def with_claims(**changes: Any) -> str:
    return SIGNER.sign({**SIGNER.claims(), **changes})


def without_claim(name: str) -> str:
    return SIGNER.sign({key: value for key, value in SIGNER.claims().items() if key != name})


def with_header(**changes: Any) -> str:
    return SIGNER.sign(SIGNER.claims(), **changes)


def with_changed_payload() -> str:
    head, _, signature = SIGNER.token().split(".")
    return f"{head}.{b64(SIGNER.claims(Role.ADMIN))}.{signature}"


WRONG: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "no token at all": lambda: "abc",
    "three dots": lambda: "...",
    "not base64": lambda: "ä.ö.ü",
    "too long": lambda: "a" * (MAX_TOKEN_BYTES + 1),
    "alg none": lambda: f"{b64({'alg': 'none', 'typ': 'at+jwt', 'kid': SIGNER.kid})}.{b64(SIGNER.claims())}.",
    "alg None in capitals": lambda: (
        f"{b64({'alg': 'NONE', 'typ': 'at+jwt', 'kid': SIGNER.kid})}.{b64(SIGNER.claims())}."
    ),
    "HS256 with the public key as secret": hs256_with_the_public_key,
    "RS512": lambda: jwt.encode(
        SIGNER.claims(), SIGNER.private, algorithm="RS512", headers={"kid": SIGNER.kid, "typ": "at+jwt"}
    ),
    "PS256": lambda: jwt.encode(
        SIGNER.claims(), SIGNER.private, algorithm="PS256", headers={"kid": SIGNER.kid, "typ": "at+jwt"}
    ),
    "signed by another key": lambda: OTHER.sign(OTHER.claims()),
    "signed by another key under our kid": lambda: OTHER.sign(OTHER.claims(), kid=SIGNER.kid),
    "payload changed": with_changed_payload,
    "signature cut off": lambda: SIGNER.token().rsplit(".", 1)[0] + ".",
    "no kid": lambda: jwt.encode(SIGNER.claims(), SIGNER.private, algorithm="RS256", headers={"typ": "at+jwt"}),
    "empty kid": lambda: with_header(kid=""),
    "kid that walks": lambda: with_header(kid="../../etc/passwd"),
    "kid that asks": lambda: with_header(kid="' OR 1=1 --"),
    "typ JWT": lambda: with_header(typ="JWT"),
    "a refresh token": lambda: with_header(typ="rt+jwt"),
    "crit": lambda: with_header(crit=["exp"]),
    "jku": lambda: with_header(jku="https://evil.example/jwks.json"),
    "jwk": lambda: with_header(jwk={"kty": "RSA"}),
    "x5u": lambda: with_header(x5u="https://evil.example/cert"),
    "x5c": lambda: with_header(x5c=["MII"]),
    "for another service": lambda: with_claims(aud=["storage"]),
    "for nobody": lambda: with_claims(aud=[]),
    "another issuer": lambda: with_claims(iss="somebody"),
    "expired": lambda: with_claims(exp=NOW_S - 1),
    "expires as text": lambda: with_claims(exp=str(NOW_S + 100)),
    "expires as true": lambda: with_claims(exp=True),
    "expires at infinity": lambda: with_claims(exp=float("inf")),
    "expires at nothing": lambda: with_claims(exp=float("nan")),
    "issued in the future": lambda: with_claims(iat=NOW_S + 3600),
    "not yet valid": lambda: with_claims(nbf=NOW_S + 3600),
    "unknown role": lambda: with_claims(role="ROOT"),
    "role in small letters": lambda: with_claims(role="admin"),
    "no role": lambda: with_claims(role=None),
    "unknown permission": lambda: with_claims(permissions=["files:everything"]),
    "permissions as text": lambda: with_claims(permissions="files:read"),
    "permissions as a number": lambda: with_claims(permissions=5),
    "more than the role has": lambda: with_claims(role="READONLY", permissions=["files:write"]),
    "internal permission for a user": lambda: with_claims(role="ADMIN", permissions=["storage:write"]),
    "client_id as a number": lambda: with_claims(client_id=5),
    "sub as a list": lambda: with_claims(sub=["a"]),
    **{
        f"without {name}": partial(without_claim, name)
        for name in ("sub", "client_id", "role", "permissions", "iat", "exp", "jti", "iss", "aud")
    },
}


@pytest.fixture
def verifier() -> TokenVerifier:
    return TokenVerifier(SIGNER, Audience.QUERY, Clock())


@pytest.mark.parametrize("what", sorted(WRONG))
async def test_a_wrong_token_is_refused(verifier: TokenVerifier, what: str) -> None:
    token = WRONG[what]()
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)


@given(st.text(max_size=50))
async def test_no_text_is_anything_but_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        await TokenVerifier(SIGNER, Audience.QUERY, Clock()).verify(text)


@given(st.integers(0, 10_000), st.characters(codec="ascii"))
async def test_a_token_with_one_other_character_is_refused(place: int, other: str) -> None:
    right = SIGNER.token()
    place %= len(right) - 1  # the last character of base64 holds bits that are not read
    wrong = right[:place] + other + right[place + 1 :]
    verifier = TokenVerifier(SIGNER, Audience.QUERY, Clock())
    if wrong == right:
        assert await verifier.verify(wrong)
    else:
        with pytest.raises(Unauthenticated):
            await verifier.verify(wrong)


async def test_a_valid_token_states_the_caller_and_its_permissions(verifier: TokenVerifier) -> None:
    principal = await verifier.verify(SIGNER.token(Role.READONLY))
    assert (principal.client_id, principal.role) == ("tester", Role.READONLY)
    assert Permission.FILES_READ in principal.permissions
    assert Permission.FILES_WRITE not in principal.permissions


async def test_a_service_has_the_permissions_of_its_account(verifier: TokenVerifier) -> None:
    token = SIGNER.token(Role.SERVICE, frozenset({Permission.STORAGE_READ}))
    assert (await verifier.verify(token)).permissions == {Permission.STORAGE_READ}


class StoppedClock(Clock):
    """Stands where the test puts it."""

    __slots__ = ("at_s",)

    def __init__(self) -> None:
        self.at_s = time.time()

    def unix_s(self) -> float:
        return self.at_s


async def test_a_token_that_was_remembered_expires_all_the_same() -> None:
    clock = StoppedClock()
    verifier = TokenVerifier(SIGNER, Audience.QUERY, clock)
    token = with_claims(exp=int(clock.at_s) + 10)
    await verifier.verify(token)
    clock.at_s += 11
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)


class RotatingKeys(Signer):
    """The signer's own key until it is withdrawn."""

    withdrawn = False

    async def find(self, kid: str) -> RSAPublicKey | None:
        return None if self.withdrawn else await super().find(kid)

    def valid(self, kid: str, subject: str, issued_at_s: float) -> bool:
        return not self.withdrawn and super().valid(kid, subject, issued_at_s)


async def test_a_remembered_token_falls_with_its_key() -> None:
    keys = RotatingKeys()
    verifier = TokenVerifier(keys, Audience.QUERY, Clock())
    token = keys.token()
    await verifier.verify(token)
    keys.withdrawn = True
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)
