from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.identity.accounts import Account
from app.identity.revocations import revokes_tokens
from artstore.clock import uuid7
from artstore.contracts.tokens import Permission, Role

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ACCOUNT = Account(
    account_id=uuid7(), client_id="c", role=Role.SERVICE, own_permissions=(Permission.STORAGE_READ,), name="",
    description="", suspended=False, rate_per_minute=None, expires_at=NOW, secret_hash=b"", previous_secret_hash=None,
    previous_secret_until=None, created_at=NOW, updated_at=NOW,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"description": "other", "name": "other", "rate_per_minute": 5}, False),
        ({"suspended": True}, True),
        ({"expires_at": NOW - timedelta(seconds=1)}, True),
        ({"expires_at": NOW + timedelta(seconds=1)}, False),
        ({"expires_at": None}, False),
        ({"own_permissions": ()}, True),
        ({"own_permissions": (Permission.STORAGE_READ, Permission.STORAGE_WRITE)}, False),
        ({"role": Role.ADMIN, "own_permissions": ()}, True),
    ],
)
def test_tokens_are_revoked_when_they_permit_more_than_the_account(change: dict[str, Any], expected: bool) -> None:
    assert revokes_tokens(ACCOUNT, replace(ACCOUNT, **change)) is expected


def test_lifting_a_suspension_revokes_nothing() -> None:
    assert not revokes_tokens(replace(ACCOUNT, suspended=True), ACCOUNT)
