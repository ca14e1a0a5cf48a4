"""Settings of admin."""

from __future__ import annotations

import base64
import binascii
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from artstore.config import (
    BEHAVIOUR,
    DatabaseSettings,
    RedisSettings,
    Seconds,
    ServiceSettings,
)
from artstore.contracts.elements import AWAY_AFTER_S
from artstore.contracts.tokens import EXPIRES_IN_S
from artstore.safe_secrets import check_private

from ..database_roles import read_passwords
from ..identity.bootstrap import read_first_accounts
from ..identity.rotation import Schedule

KEY_BYTES = 32
"""AES-256 and HMAC-SHA256 keys."""
PUBLISH_LEAD = timedelta(minutes=15)
"""How long the next signing key is published before it signs: verifiers fetch the keys every
JWKS_REFRESH_S."""


class SchemaSettings(BaseSettings):
    """The login that runs the migrations, and the roles that they create."""

    model_config = BEHAVIOUR

    database_owner_url: SecretStr | None = None
    """The login that owns the schema, for migrations only. Without it admin migrates over DATABASE_URL if
    that login may, or waits until `python -m app.migrate` has run."""
    database_roles_file: Path | None = None
    """JSON object with the password of each module's database role; the migrations create these roles."""

    @field_validator("database_roles_file")
    @classmethod
    def _holds_passwords(cls, value: Path | None) -> Path | None:
        if value is not None:
            read_passwords(value)
            check_private(value, "DATABASE_ROLES_FILE")
        return value


class Settings(ServiceSettings, DatabaseSettings, SchemaSettings, RedisSettings):
    """Environment names are the field names in upper case."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    key_encryption_key: SecretStr
    """Base64 of 32 bytes: encrypts the private signing keys (AES-256-GCM). If it is lost, new keys are
    needed; no file is lost."""
    key_encryption_key_previous: SecretStr | None = None
    """The value before a change of KEY_ENCRYPTION_KEY. A start with it encrypts all private keys anew; then remove it."""
    secret_hash_key: SecretStr
    """Base64 of 32 bytes: keys the hash of client secrets. If it is lost, every client secret becomes
    invalid."""
    bootstrap_accounts_file: Path | None = None
    """JSON list of accounts that are created at the start if their client_id is missing."""
    signing_key_rotate_every_s: Seconds = 24 * 3600
    """Interval between rotations of the signing key. A retired key verifies for twice the lifetime of a
    token."""
    access_token_lifetime_s: Annotated[int, Field(ge=1, le=EXPIRES_IN_S)] = EXPIRES_IN_S
    """Lifetime of an access token."""
    audit_checkpoint_every_s: Seconds = 60
    """Interval between signed checkpoints over all audit chains."""
    audit_verify_every_s: Seconds = 24 * 3600
    """Interval between verifications of the audit log, each by one of the admins, at a tenth of a core."""
    element_away_after_s: Seconds = AWAY_AFTER_S
    """Silence after which an element counts as away and receives no new files."""
    element_call_timeout_s: Seconds = 10
    """Limit for a control call to an element: a mode change, a queued change, a compensation."""
    saga_lease_s: Seconds = 300
    """An upload whose saga is neither renewed nor committed for this long is undone."""

    @property
    def migration_url(self) -> str:
        return (self.database_owner_url or self.database_url).get_secret_value()

    @property
    def key_schedule(self) -> Schedule:
        rotate_every = timedelta(seconds=self.signing_key_rotate_every_s)
        return Schedule(
            rotate_every,
            publish_lead=min(PUBLISH_LEAD, 3 * rotate_every / 4),
            grace=2 * timedelta(seconds=self.access_token_lifetime_s),
        )

    @field_validator("bootstrap_accounts_file")
    @classmethod
    def _can_be_read(cls, value: Path | None) -> Path | None:
        if value is not None:
            read_first_accounts(value)
            check_private(value, "BOOTSTRAP_ACCOUNTS_FILE")
        return value

    @field_validator("key_encryption_key", "key_encryption_key_previous", "secret_hash_key")
    @classmethod
    def _is_a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            decode_key(value)
        return value


class MigrationSettings(ServiceSettings, SchemaSettings):
    """Settings of `python -m app.migrate`."""

    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Not used, because this program does not listen."""
    database_owner_url: SecretStr


def decode_key(value: SecretStr) -> bytes:
    """Raises ValueError unless `value` is base64 of KEY_BYTES random-looking bytes."""
    try:
        key = base64.b64decode(value.get_secret_value(), validate=True)
    except binascii.Error as error:
        raise ValueError("must be base64") from error
    if len(key) != KEY_BYTES:
        raise ValueError(f"must be base64 of {KEY_BYTES} bytes")
    if len(set(key)) < KEY_BYTES // 4:
        raise ValueError("must be random")
    return key
