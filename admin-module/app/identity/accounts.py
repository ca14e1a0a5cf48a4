"""Service accounts in PostgreSQL. Only this file uses the table `accounts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from artstore.contracts.tokens import ROLE_PERMISSIONS, Permission, Role
from artstore.errors import Conflict, InvalidFields, NotFound

SERVICE_PERMISSIONS = frozenset(
    {
        Permission.STORAGE_READ,
        Permission.STORAGE_WRITE,
        Permission.SAGAS_WRITE,
        Permission.ELEMENTS_READ,
        Permission.ELEMENTS_REPORT,
    }
)
"""Permissions that a module's own account may have."""


@dataclass(frozen=True, slots=True)
class Account:
    """A row of `accounts`. `own_permissions` belong to a SERVICE account; every other role has fixed
    permissions."""

    account_id: UUID
    client_id: str
    role: Role
    own_permissions: tuple[Permission, ...]
    name: str
    description: str
    suspended: bool
    rate_per_minute: int | None
    expires_at: datetime | None
    secret_hash: bytes
    previous_secret_hash: bytes | None
    previous_secret_until: datetime | None
    created_at: datetime
    updated_at: datetime
    void_through: int | None = None
    """Unix second: tokens issued until then are revoked. Only read together with a login."""

    @property
    def permissions(self) -> frozenset[Permission]:
        return frozenset(self.own_permissions) if self.role is Role.SERVICE else ROLE_PERMISSIONS[self.role]

    def usable(self, now: datetime) -> bool:
        return not self.suspended and (self.expires_at is None or now < self.expires_at)


_COLUMNS = """account_id, client_id, role, permissions, accounts.name, description, suspended, rate_per_minute, expires_at,
    secret_hash, previous_secret_hash, previous_secret_until, created_at, updated_at"""
_BY_CLIENT_IDS = text(
    f"""SELECT {_COLUMNS}, void_through FROM accounts
    LEFT JOIN revocations ON kind = 'account' AND revocations.name = CAST(account_id AS text)
    WHERE client_id = ANY(CAST(:client_ids AS text[]))"""
)
_BY_ID_REVOKED = text(
    f"""SELECT {_COLUMNS}, void_through FROM accounts
    LEFT JOIN revocations ON kind = 'account' AND revocations.name = CAST(account_id AS text)
    WHERE account_id = CAST(:account_id AS uuid)"""
)
_BY_ID = text(f"SELECT {_COLUMNS} FROM accounts WHERE account_id = :account_id")
_BY_ID_LOCKED = text(f"SELECT {_COLUMNS} FROM accounts WHERE account_id = :account_id FOR UPDATE")
_PAGE = text(
    f"""SELECT {_COLUMNS} FROM accounts WHERE CAST(:after AS uuid) IS NULL OR account_id > :after
    ORDER BY account_id LIMIT :limit"""
)
_INSERT = text(
    f"""INSERT INTO accounts ({_COLUMNS.replace("accounts.", "")}) VALUES (:account_id, :client_id, :role,
    CAST(:permissions AS text[]), :name, :description, :suspended, :rate_per_minute, :expires_at,
    :secret_hash, NULL, NULL, :created_at, :created_at)
    ON CONFLICT (client_id) DO NOTHING RETURNING 1"""
)
_UPDATE = text(
    """UPDATE accounts SET role = :role, permissions = CAST(:permissions AS text[]), name = :name, description = :description,
    suspended = :suspended, rate_per_minute = :rate_per_minute, expires_at = :expires_at, updated_at = :updated_at,
    secret_hash = :secret_hash, previous_secret_hash = :previous_secret_hash,
    previous_secret_until = :previous_secret_until WHERE account_id = :account_id"""
)
_NOT_WRITTEN = ("own_permissions", "void_through")
_DELETE = text("DELETE FROM accounts WHERE account_id = :account_id")
_LOCK_ADMINS = text("SELECT pg_advisory_xact_lock(:lock)")
_OTHER_ADMINS = text(
    """SELECT EXISTS (SELECT FROM accounts WHERE role = 'ADMIN' AND NOT suspended AND account_id <> :without
    AND (expires_at IS NULL OR expires_at > now()))"""
)
ADMINS_LOCK = 0x6172_7473_0004
"""Advisory lock: two ADMIN accounts cannot remove each other at the same time."""


async def find_accounts(conn: AsyncConnection, client_ids: Sequence[str]) -> dict[str, Account]:
    """By client_id. Unknown ones are missing from the result."""
    rows = await conn.execute(_BY_CLIENT_IDS, {"client_ids": list(client_ids)})
    return {account.client_id: account for account in map(_account, rows.mappings())}


async def find_account(conn: AsyncConnection, account_id: str) -> Account | None:
    """With `void_through`. `account_id` must be a UUID."""
    row = (await conn.execute(_BY_ID_REVOKED, {"account_id": account_id})).mappings().first()
    return None if row is None else _account(row)


async def load_account(conn: AsyncConnection, account_id: UUID, *, for_update: bool = False) -> Account:
    """Raises NotFound."""
    rows = await conn.execute(_BY_ID_LOCKED if for_update else _BY_ID, {"account_id": account_id})
    row = rows.mappings().first()
    if row is None:
        raise NotFound("no account has this id")
    return _account(row)


async def list_accounts(conn: AsyncConnection, after: UUID | None, limit: int) -> list[Account]:
    """In the order of creation, starting after the account `after`."""
    rows = await conn.execute(_PAGE, {"after": after, "limit": limit})
    return [_account(row) for row in rows.mappings()]


async def insert_account(conn: AsyncConnection, account: Account) -> None:
    """Raises Conflict when the client_id is already used."""
    check_permissions(account.role, account.own_permissions)
    if (await conn.execute(_INSERT, _values(account))).first() is None:
        raise Conflict("the client_id is already used", client_id=account.client_id)


async def update_account(conn: AsyncConnection, account: Account) -> None:
    """Writes every changeable column; the caller holds the row's lock (`load_account(for_update=True)`)."""
    check_permissions(account.role, account.own_permissions)
    await conn.execute(_UPDATE, _values(account))


async def delete_account(conn: AsyncConnection, account_id: UUID) -> None:
    await conn.execute(_DELETE, {"account_id": account_id})


async def check_an_admin_remains(conn: AsyncConnection, without: UUID) -> None:
    """Raises Conflict when `without` is the last ADMIN who can log in. Locks until the commit."""
    await conn.execute(_LOCK_ADMINS, {"lock": ADMINS_LOCK})
    if not (await conn.execute(_OTHER_ADMINS, {"without": without})).scalar():
        raise Conflict("at least one usable ADMIN account must remain")


def check_permissions(role: Role, permissions: Sequence[Permission]) -> None:
    """Raises InvalidFields unless a SERVICE account has only SERVICE_PERMISSIONS and every other role none of
    its own."""
    if role is Role.SERVICE:
        excess = frozenset(permissions) - SERVICE_PERMISSIONS
        if excess:
            names = ", ".join(sorted(excess))
            raise InvalidFields(f"a SERVICE account cannot have {names}", fields=["permissions"])
    elif permissions:
        raise InvalidFields(f"the permissions of the role {role.value} are fixed", fields=["permissions"])


def _account(row: Mapping[str, Any] | Any) -> Account:
    values = dict(row)
    values["role"] = Role(values["role"])
    values["own_permissions"] = tuple(Permission(name) for name in values.pop("permissions"))
    return Account(**values)


def _values(account: Account) -> dict[str, Any]:
    values = {name: getattr(account, name) for name in Account.__slots__ if name not in _NOT_WRITTEN}
    return {**values, "role": account.role.value, "permissions": [p.value for p in account.own_permissions]}
