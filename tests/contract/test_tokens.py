"""Every service refuses, over HTTP, tokens that admin did not issue, although the forger holds admin's own key."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support.forger import Forger
from support.system import System

SERVICES = {
    "admin": "/api/storage-elements",
    "se-01": "/api/element",
    "ingester": "/api/files/00000000-0000-7000-8000-000000000000/content",
    "query": "/api/files",
}
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NOW_S = int(time.time())

WRONG: dict[str, Callable[[Forger], str]] = {
    "no token": lambda _: "",
    "rubbish": lambda _: "abc",
    "three dots": lambda _: "...",
    "a token of 9 KiB": lambda _: "a" * 9000,
    "alg none": lambda f: f.unsigned(),
    "alg None": lambda f: f.unsigned("None"),
    "HS256 with the public PEM as secret": lambda f: f.hs256(),
    "RS512": lambda f: jwt.encode(f.claims(), f.private, "RS512", {"kid": f.kid, "typ": "at+jwt"}),
    "PS256": lambda f: jwt.encode(f.claims(), f.private, "PS256", {"kid": f.kid, "typ": "at+jwt"}),
    "a stranger's signature": lambda f: f.sign(f.claims(), STRANGER),
    "a stranger's kid": lambda f: f.sign(f.claims(), STRANGER, kid="A" * 43),
    "no signature": lambda f: f.sign(f.claims()).rpartition(".")[0] + ".",
    "another's payload": lambda f: ".".join(
        (f.sign(f.claims()).split(".")[0], f.sign(f.claims(sub="x")).split(".")[1], f.sign(f.claims()).split(".")[2])
    ),
    "unknown kid": lambda f: f.sign(f.claims(), kid="unknown"),
    "kid that walks": lambda f: f.sign(f.claims(), kid="../../../../dev/null"),
    "kid that asks": lambda f: f.sign(f.claims(), kid="' OR '1'='1"),
    "no kid": lambda f: jwt.encode(f.claims(), f.private, "RS256", {"typ": "at+jwt"}),
    "typ JWT": lambda f: f.sign(f.claims(), typ="JWT"),
    "a refresh token": lambda f: f.sign(f.claims(), typ="rt+jwt"),
    "crit": lambda f: f.sign(f.claims(), crit=["exp"]),
    "jku": lambda f: f.sign(f.claims(), jku="http://127.0.0.1:1/jwks.json"),
    "jwk": lambda f: f.sign(f.claims(), jwk={"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
    "x5c": lambda f: f.sign(f.claims(), x5c=["MIIB"]),
    "for nobody": lambda f: f.sign(f.claims(aud=[])),
    "for another service": lambda f: f.sign(f.claims(aud=["elsewhere"])),
    "no aud": lambda f: f.sign(f.claims(aud=None)),
    "another issuer": lambda f: f.sign(f.claims(iss="https://evil.example")),
    "no issuer": lambda f: f.sign(f.claims(iss=None)),
    "expired": lambda f: f.sign(f.claims(exp=NOW_S - 1)),
    "never expires": lambda f: f.sign(f.claims(exp=None)),
    "issued in the future": lambda f: f.sign(f.claims(iat=NOW_S + 3600)),
    "not yet valid": lambda f: f.sign(f.claims(nbf=NOW_S + 3600)),
    "unknown role": lambda f: f.sign(f.claims(role="ROOT")),
    "no role": lambda f: f.sign(f.claims(role=None)),
    "unknown permission": lambda f: f.sign(f.claims(permissions=["everything"])),
    "an ADMIN with internal permissions": lambda f: f.sign(f.claims(permissions=["storage:write"])),
    "a rate that is none": lambda f: f.sign(f.claims(rate=-1)),
}


def ask(system: System, service: str, **headers: str) -> httpx.Response:
    method = "PUT" if service == "ingester" else "GET"
    from_ = {"x-forwarded-for": f"198.51.100.{10 + list(SERVICES).index(service)}"}
    return httpx.request(method, system.url(service) + SERVICES[service], headers={**from_, **headers}, timeout=120)


@pytest.mark.parametrize("service", SERVICES)
def test_the_forger_could_if_he_were_right(system: System, forger: Forger, service: str) -> None:
    answer = ask(system, service, authorization=f"Bearer {forger.sign(forger.claims())}")
    assert answer.status_code not in (401, 403), answer.text


@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_token_is_refused(system: System, forger: Forger, service: str) -> None:
    for what, make in WRONG.items():
        answer = ask(system, service, authorization=f"Bearer {make(forger)}".strip())
        assert answer.status_code == 401, f"{what}: {answer.status_code} {answer.text}"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("service", SERVICES)
def test_a_token_for_the_other_three_is_refused(system: System, forger: Forger, service: str) -> None:
    own = "storage" if service == "se-01" else service
    others = [audience for audience in forger.claims()["aud"] if audience != own]
    assert ask(system, service, authorization=f"Bearer {forger.sign(forger.claims(aud=others))}").status_code == 401


@pytest.mark.parametrize("service", SERVICES)
def test_a_token_counts_only_as_a_bearer_header(system: System, forger: Forger, service: str) -> None:
    token = forger.sign(forger.claims())
    assert ask(system, service, authorization=token).status_code == 401
    assert ask(system, service, authorization=f"Basic {token}").status_code == 401
    assert ask(system, service, cookie=f"access_token={token}").status_code == 401
    with_query = httpx.get(system.url(service) + SERVICES[service], params={"access_token": token}, timeout=120)
    assert with_query.status_code in (401, 405)
