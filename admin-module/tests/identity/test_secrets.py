from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.identity.secrets import SecretHasher, new_secret

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Owner:
    secret_hash: bytes
    previous_secret_hash: bytes | None = None
    previous_secret_until: datetime | None = None


def test_a_secret_has_256_bits_and_passes_through_urls() -> None:
    secret = new_secret(os.urandom)
    assert len(secret) == 43
    assert secret.replace("-", "").replace("_", "").isalnum()
    assert secret != new_secret(os.urandom)


def test_the_hash_depends_on_the_key() -> None:
    assert SecretHasher(b"a" * 32).hash("secret") != SecretHasher(b"b" * 32).hash("secret")


def test_only_the_present_secret_matches() -> None:
    hasher = SecretHasher(os.urandom(32))
    owner = Owner(hasher.hash("right"))
    assert hasher.matches("right", owner, NOW)
    assert not hasher.matches("wrong", owner, NOW)
    assert not hasher.matches("", owner, NOW)
    assert not hasher.matches("right", None, NOW)


def test_the_previous_secret_matches_until_its_grace_ends() -> None:
    hasher = SecretHasher(os.urandom(32))
    owner = Owner(hasher.hash("new"), hasher.hash("old"), NOW + timedelta(seconds=1))
    assert hasher.matches("old", owner, NOW)
    assert hasher.matches("new", owner, NOW)
    assert not hasher.matches("old", owner, NOW + timedelta(seconds=1))
    assert hasher.matches("new", owner, NOW + timedelta(seconds=1))
