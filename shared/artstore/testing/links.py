"""Attacks on signed links, for each service that answers them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from artstore.clock import uuid7
from artstore.testing.tokens import Signer


def claims_of(link: str) -> dict[str, Any]:
    part = link.partition(".")[0]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def forged(link: str, **claims: Any) -> str:
    """With other claims and the same signature."""
    changed = json.dumps({**claims_of(link), **claims}, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(changed).rstrip(b"=").decode() + "." + link.partition(".")[2]


def attacks(signer: Signer, account: str, file_id: str, other_id: str) -> Iterator[str]:
    """Links that this system has not signed, made of some that it has. `other_id` names another file."""
    link = signer.link(account, file_id)
    known = claims_of(link)
    changed: dict[str, Any] = {
        "file_id": other_id,
        "expires_at_ms": known["expires_at_ms"] + 1,
        "disposition": "inline",
        "account": str(uuid7()),
        "issued_at_s": known["issued_at_s"] + 1,
        "kid": "another",
    }
    for name, value in changed.items():
        yield forged(link, **{name: value})
    yield forged(link, method="DELETE")
    yield forged(link, filename="other.exe")
    yield forged(link, expires_at_ms=None)
    yield forged(link, expires_at_ms=1e18)
    yield forged(link, file_id=["x"])
    claims, _, signature = link.partition(".")
    stolen = signer.link(account, other_id).partition(".")[2]
    padded = base64.urlsafe_b64encode(base64.urlsafe_b64decode(signature + "==")).decode()
    yield from (claims, f"{claims}.", f".{signature}", f"{claims}.{stolen}", f"{claims}.{signature[:-1]}")
    yield from (f"{claims}.{padded}", f"{claims}.{signature}.", f"{claims}.{signature}A", f"{signature}.{claims}")
    yield from (link.replace(".", ".."), "x" * 5000, "e30.e30", "%00", "%C3%A9.%C3%A9")
    yield Signer().link(account, file_id)
    yield signer.token()
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if last != signature[-1]:
            yield link[:-1] + last
