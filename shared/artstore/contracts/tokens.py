"""Access tokens: claims, roles, and the permissions of each role."""

from __future__ import annotations

import enum

import msgspec

ISSUER = "artstore-admin"
TOKEN_TYPE = "at+jwt"
ALGORITHM = "RS256"
EXPIRES_IN_S = 1800
JWKS_KEY = "artstore:jwks"
"""Redis key: the signed JWKS document (auth/keys.py), for verifiers that cannot reach admin."""

JWKS_CHANNEL = "artstore:jwks:changed"
"""Redis channel: a notice that keys or revocations have changed. Verifiers then fetch them, and also fetch
them periodically."""


class Audience(enum.StrEnum):
    ADMIN = "admin"
    STORAGE = "storage"
    INGESTER = "ingester"
    QUERY = "query"


class Role(enum.StrEnum):
    """Roles of accounts. SERVICE is for the modules' own accounts, whose permissions are stored with the
    account."""

    ADMIN = "ADMIN"
    USER = "USER"
    AUDITOR = "AUDITOR"
    READONLY = "READONLY"
    SERVICE = "SERVICE"


class Permission(enum.StrEnum):
    FILES_READ = "files:read"
    FILES_WRITE = "files:write"
    FILES_DELETE = "files:delete"
    ELEMENTS_READ = "elements:read"
    ELEMENTS_WRITE = "elements:write"
    ACCOUNTS_READ = "accounts:read"
    ACCOUNTS_WRITE = "accounts:write"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    SAGAS_READ = "sagas:read"
    AUDIT_READ = "audit:read"
    AUDIT_WRITE = "audit:write"
    """Sealing and pruning; for ADMIN only."""
    STORAGE_READ = "storage:read"
    """Internal like the three below: for module accounts. ADMIN may read an element, but holds none of the
    others."""
    STORAGE_WRITE = "storage:write"
    SAGAS_WRITE = "sagas:write"
    ELEMENTS_REPORT = "elements:report"


MAX_LINK_S = 7 * 24 * 3600
"""The longest time for which a signed link may be valid."""
INTERNAL_WRITES = frozenset({Permission.STORAGE_WRITE, Permission.SAGAS_WRITE, Permission.ELEMENTS_REPORT})
"""Files are written only through sagas, so no user role has these, not even ADMIN."""

ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission) - INTERNAL_WRITES,
    Role.USER: frozenset({Permission.FILES_READ, Permission.FILES_WRITE, Permission.FILES_DELETE}),
    Role.AUDITOR: frozenset({Permission.AUDIT_READ}),
    Role.READONLY: frozenset(
        {Permission.FILES_READ, Permission.ELEMENTS_READ, Permission.ACCOUNTS_READ, Permission.SAGAS_READ}
    ),
    Role.SERVICE: frozenset(),
}

ADMIN_PERMISSIONS = frozenset(Permission) - {
    Permission.FILES_READ,
    Permission.FILES_WRITE,
    Permission.FILES_DELETE,
    Permission.STORAGE_READ,
    Permission.STORAGE_WRITE,
}
"""A token with one of these permissions gets `admin` into `aud`."""


class TokenAnswer(msgspec.Struct, frozen=True, kw_only=True):
    access_token: str
    expires_in: int = EXPIRES_IN_S
    token_type: str = "Bearer"


def audiences(permissions: frozenset[Permission]) -> list[str]:
    """The `aud` claim of a token with these permissions."""
    everywhere = [Audience.STORAGE, Audience.INGESTER, Audience.QUERY]
    return [*everywhere, Audience.ADMIN] if permissions & ADMIN_PERMISSIONS else [*everywhere]
