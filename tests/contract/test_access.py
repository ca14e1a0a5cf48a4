"""Permission × endpoint over all services: every role at every endpoint is let in or refused as the table says."""

from __future__ import annotations

import httpx
import pytest
from support.system import System

from artstore.auth.access import ENDPOINTS
from artstore.contracts.tokens import ROLE_PERMISSIONS, Audience, Permission, Role, audiences

SERVICES = {Audience.ADMIN: "admin", Audience.STORAGE: "se-01", Audience.INGESTER: "ingester", Audience.QUERY: "query"}
MODULES = ("se-01", "ingester", "query")
NOBODY = "00000000-0000-7000-8000-000000000000"
HOLDERS = [*(role.value for role in Role if role is not Role.SERVICE), *MODULES]


@pytest.fixture(scope="session")
def tokens(system: System) -> dict[str, str]:
    made = {role: system.token(**system.new_account(role)) for role in HOLDERS if role not in MODULES}
    return made | {name: system.token(name, (system.keys / f"{name}.secret").read_text()) for name in MODULES}


@pytest.fixture(scope="session")
def permissions(client: httpx.Client, system: System) -> dict[str, frozenset[Permission]]:
    """By role as docs/security.md says, by module account as admin says."""
    accounts = client.get(f"{system.url('admin')}/api/service-accounts?limit=1000").json()["items"]
    held = {one["client_id"]: frozenset(Permission(name) for name in one["permissions"]) for one in accounts}
    return {role.value: granted for role, granted in ROLE_PERMISSIONS.items()} | {name: held[name] for name in MODULES}


OTHER_CREDENTIALS = frozenset({"POST /api/auth/token", "GET /api/links/{link}", "HEAD /api/links/{link}"})
"""Public, and refused without what the path or the body must hold."""


def documented(system: System, audience: Audience) -> set[str]:
    paths = httpx.get(f"{system.url(SERVICES[audience])}/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}


def ask(system: System, audience: Audience, endpoint: str, holder: str, token: str | None) -> httpx.Response:
    """With ids of nothing and an empty body: what is let in changes as little as can be."""
    method, path = endpoint.split(" ")
    element = holder if holder in MODULES else "se-99"
    path = path.replace("{element_id}", element).replace("{kid}", "unknown")
    for name in ("file_id", "account_id", "saga_id", "upload_id"):
        path = path.replace(f"{{{name}}}", NOBODY)
    headers = {"authorization": f"Bearer {token}"} if token else {"x-forwarded-for": "198.51.100.77"}
    return httpx.request(method, system.url(SERVICES[audience]) + path, headers=headers, timeout=120)


@pytest.mark.parametrize("audience", SERVICES)
def test_every_documented_endpoint_is_in_the_table_and_says_so(system: System, audience: Audience) -> None:
    paths = httpx.get(f"{system.url(SERVICES[audience])}/openapi.json").json()["paths"]
    assert documented(system, audience) <= ENDPOINTS[audience].keys()
    for path, operations in paths.items():
        for method, operation in operations.items():
            needed = ENDPOINTS[audience][f"{method.upper()} {path}"]
            assert operation.get("x-permission") == (needed.value if needed else None)


@pytest.mark.parametrize("audience", SERVICES)
@pytest.mark.parametrize("holder", HOLDERS)
def test_each_role_at_each_endpoint(
    system: System,
    tokens: dict[str, str],
    permissions: dict[str, frozenset[Permission]],
    audience: Audience,
    holder: str,
) -> None:
    knows_service = audience.value in audiences(permissions[holder])
    for endpoint in sorted(documented(system, audience)):
        needed = ENDPOINTS[audience][endpoint]
        status = ask(system, audience, endpoint, holder, tokens[holder]).status_code
        if needed is not None and not knows_service:
            assert status == 401, f"{holder} at {audience} {endpoint}: {status}"
        elif needed is not None and needed not in permissions[holder]:
            assert status == 403, f"{holder} at {audience} {endpoint}: {status}"
        elif endpoint not in OTHER_CREDENTIALS:
            assert status not in (401, 403, 429, 500), f"{holder} at {audience} {endpoint}: {status}"


@pytest.mark.parametrize("audience", SERVICES)
def test_without_a_token_only_the_public_is_open(system: System, audience: Audience) -> None:
    for endpoint in sorted(documented(system, audience)):
        status = ask(system, audience, endpoint, "nobody", None).status_code
        if ENDPOINTS[audience][endpoint] is None:
            assert status not in (401, 403) or endpoint in OTHER_CREDENTIALS, f"{endpoint}: {status}"
        else:
            assert status == 401, f"{endpoint}: {status}"


def test_a_refusal_names_the_permission_that_is_missing(system: System, tokens: dict[str, str]) -> None:
    answer = ask(system, Audience.INGESTER, "DELETE /api/files/{file_id}", "READONLY", tokens["READONLY"])
    assert answer.status_code == 403
    assert answer.json()["permission"] == "files:delete"


def test_no_user_holds_what_only_modules_may(permissions: dict[str, frozenset[Permission]]) -> None:
    internal = {Permission.STORAGE_WRITE, Permission.SAGAS_WRITE, Permission.ELEMENTS_REPORT}
    for role in ("ADMIN", "USER", "AUDITOR", "READONLY"):
        assert not permissions[role] & internal
