"""No log of any part of the system holds a secret: neither a generated one nor one in a request."""

from __future__ import annotations

import base64
import json
import re
import secrets
from urllib.parse import quote

import httpx
import pytest
from support.system import System

TOKEN = re.compile(rb"eyJ[\w-]{8,}\.[\w-]{8,}")


@pytest.fixture
def sent(system: System, client: httpx.Client) -> set[str]:
    """Secrets and tokens that went over the wire in every way there is, well and badly."""
    admin, wrong = system.url("admin"), secrets.token_urlsafe(32)
    account = system.new_account("USER")
    token = system.token(**account)
    form = {"grant_type": "client_credentials", **account}
    basic = (account["client_id"], account["client_secret"])
    httpx.post(f"{admin}/api/auth/token", data=form)
    httpx.post(f"{admin}/api/auth/token", data={"grant_type": "client_credentials"}, auth=basic)
    httpx.post(f"{admin}/api/auth/token", json={**account, "client_secret": wrong})
    httpx.post(f"{admin}/api/auth/token", json={"client_id": wrong, "client_secret": wrong})
    httpx.post(f"{admin}/api/auth/token", content=b'{"client_secret": "' + wrong.encode() + b'"')
    httpx.post(f"{admin}/api/auth/token?client_secret={wrong}", json=account)
    for service in ("gateway", "admin", "se-01", "ingester", "query"):
        url = system.url(service)
        httpx.get(f"{url}/api/files", headers={"authorization": f"Bearer {token}"})
        httpx.get(f"{url}/api/files", headers={"authorization": f"Bearer {token}x"})
        httpx.get(f"{url}/api/files?access_token={token}")
        httpx.get(f"{url}/api/{token}", headers={"cookie": f"session={wrong}"})
    uploaded = client.post(f"{system.url('ingester')}/api/files/upload?filename=a", content=b"a")
    client.get(f"{system.url('query')}/api/files/{uploaded.json()['file_id']}/content")
    made = client.post(f"{system.url('query')}/api/files/{uploaded.json()['file_id']}/links", json={"ttl_s": 60})
    url = made.json()["url"]
    link = url.rpartition("/")[2]
    for followed in (url, f"{url}x", f"{url}/x", f"{url}?x"):
        httpx.get(followed)
    accounts = client.get(f"{admin}/api/service-accounts?limit=1000").json()["items"]
    account_id = next(one["id"] for one in accounts if one["client_id"] == account["client_id"])
    rotated = client.post(f"{admin}/api/service-accounts/{account_id}/rotate-secret", json={}).json()
    client.post(f"{admin}/api/service-accounts", json={"client_secret": wrong})
    return {account["client_secret"], rotated["client_secret"], token, wrong, link}


def test_no_log_holds_a_secret(system: System, sent: set[str]) -> None:
    assert system.data is not None
    logs = {path.name: path.read_bytes() for path in (system.data / "logs").iterdir()}
    assert len(logs) >= 8
    assert all(logs[f"{name}.log"] for name in ("admin", "se-01", "ingester", "query"))
    made = {
        path.read_text().strip() for path in system.keys.iterdir() if path.suffix == ".secret" or "key" in path.name
    }
    made |= {(system.keys / name).read_text().strip() for name in ("postgres-password", "redis-password")}
    made |= {str(one["client_secret"]) for one in json.loads((system.keys / "accounts.json").read_text())}
    for name, log in logs.items():
        for secret in made | sent:
            spellings = (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode())
            assert not any(spelling.encode() in log for spelling in spellings), f"{name} holds {secret[:4]}…"
        assert not TOKEN.search(log), f"{name} holds a token"
        assert b"PRIVATE KEY" not in log
