"""Checks of who may do what: TLS, tokens, secrets, database roles, limits, origins."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import httpx

from .finding import Answer, age_s, fail, good, warn
from .system import Examined

KEY_AGE_S = 25 * 3600
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OWNERS_LOGINS = ("database-url",)
"""Files of logins that own the schema; no running service but admin's migration reads one."""
CONNECT_TIMEOUT_S = 5
_RIGHTS = """SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls AS too_much
FROM pg_roles WHERE rolname = current_user"""


def check_tls(system: Examined) -> Iterator[Answer]:
    parts = urlsplit(system.url)
    if parts.scheme == "https":
        yield good("clients use TLS")
    elif parts.hostname in LOOPBACK:
        yield warn(
            "the one address is plain HTTP on this machine", "TLS: docs/operations/gateway.md, before others use it"
        )
    else:
        yield fail(f"{system.url} is plain HTTP: tokens and files can be read on the way", "docs/operations/gateway.md")


def check_tokens(system: Examined) -> Iterator[Answer]:
    encoded = system.token.partition(".")[0]
    header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    if (header.get("alg"), header.get("typ")) != ("RS256", "at+jwt"):
        yield fail(f"tokens are signed by {header.get('alg')}", "only RS256 is allowed: whose token is this?")
    keys = system.get("/api/auth/keys")["items"]
    active = [key for key in keys if key["state"] == "active"]
    if len(active) != 1 or not any(key["state"] == "next" for key in keys):
        yield fail("there is not one active and a next signing key", "POST /api/auth/keys/rotate")
    for key in active:
        old_s = age_s(key["since"])
        if old_s > KEY_AGE_S:
            yield fail(f"the signing key is {old_s / 3600:.0f} h old, it should change every 24 h", "see admin's log")
        else:
            yield good(f"RS256, RSA-{key['bits']}, the key is {old_s / 3600:.1f} h old")


def check_secrets(system: Examined) -> Iterator[Answer]:
    if system.folder is None:
        yield warn("the keys are not on this machine", "look there: each file readable by one service only")
        return
    for path in sorted(system.folder.keys.iterdir()):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o007:
            yield fail(f"{path} is readable by everybody ({mode:o})", f"chmod o= {path}")
    yield good(f"secrets come from files in {system.folder.keys}")


def check_roles(system: Examined) -> Iterator[Answer]:
    """Logs in with each login that a service has."""
    if system.folder is None:
        yield warn("the database is not on this machine", "no service but admin's migration may be superuser")
        return
    urls = {path.name: path.read_text().strip() for path in system.folder.keys.glob("database-url*")}
    users: dict[str, str] = {}
    for name, url in urls.items():
        if name in OWNERS_LOGINS:
            continue
        try:
            users[name], too_much = asyncio.run(_rights_of(url))
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            yield fail(f"{name} cannot log in: {error or type(error).__name__}", "start again: a start sets passwords")
            continue
        if too_much:
            yield fail(f"{name} logs in as {users[name]}, which may do nearly all", "keys/generate.py makes roles")
    if len(set(users.values())) < len(users):
        yield fail("services share a database role", "keys/generate.py makes a role for each")
    yield good(f"roles of their own: {', '.join(sorted(set(users.values())))}")


async def _rights_of(url: str) -> tuple[str, bool]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), timeout=CONNECT_TIMEOUT_S)
    try:
        found = await connection.fetchrow(_RIGHTS)
    finally:
        await connection.close()
    return str(found["rolname"]), bool(found["too_much"])


def check_limits(system: Examined) -> Iterator[Answer]:
    headers = system.http.get("/api/files", params={"limit": 1}).headers
    if "ratelimit-policy" in headers:
        yield good(f"RateLimit-Policy: {headers['ratelimit-policy']}")
    else:
        yield fail("answers have no RateLimit-Policy", "requests per account are not limited: RATE_LIMIT_PER_MINUTE")


def check_cors(system: Examined) -> Iterator[Answer]:
    origin = "https://stranger.example"
    asked = {"origin": origin, "access-control-request-method": "GET"}
    allowed = httpx.options(f"{system.url}/api/files", headers=asked).headers.get("access-control-allow-origin")
    if allowed in ("*", origin):
        yield fail("pages of every origin may call the API", "name the origins in CORS_ALLOWED_ORIGINS")
    else:
        yield good("an unknown origin is not allowed")
