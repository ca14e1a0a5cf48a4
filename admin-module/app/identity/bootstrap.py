"""Creates the first accounts: each account of BOOTSTRAP_ACCOUNTS_FILE once per database.

Existing accounts are never changed. An account that an operator has deleted is not created again, because
others may know its secret.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import msgspec

from artstore.audit.event import Event
from artstore.contracts.tokens import ISSUER, Permission, Role
from artstore.database import Database
from artstore.errors import ArtStoreError, Conflict
from artstore.logs import get_logger

from ..audit.chain import Auditor
from .accounts import Account, check_permissions, find_accounts, insert_account
from .credentials import CLIENT_ID
from .revocations import list_bootstrapped, record_bootstrapped
from .secrets import MAX_SECRET_CHARS, SecretHasher

MIN_SECRET_CHARS = 32

log = get_logger("admin.bootstrap")


class FirstAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    client_id: str
    client_secret: str
    role: Role
    permissions: list[Permission] = []
    rate_per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = None


def read_first_accounts(path: Path) -> list[FirstAccount]:
    """Raises ValueError with a reason that names no secret."""
    try:
        accounts = msgspec.json.decode(path.read_bytes(), type=list[FirstAccount])
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}: {path}") from error
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} must be a JSON list of accounts: {error}") from error
    for account in accounts:
        if not CLIENT_ID.fullmatch(account.client_id):
            raise ValueError(f"{path} has an invalid client_id")
        if not MIN_SECRET_CHARS <= len(account.client_secret) <= MAX_SECRET_CHARS:
            raise ValueError(
                f"{path}: the secret of {account.client_id} must have {MIN_SECRET_CHARS} to {MAX_SECRET_CHARS} characters"
            )
        try:
            check_permissions(account.role, account.permissions)
        except ArtStoreError as error:
            raise ValueError(f"{path}: {account.client_id}: {error.detail}") from error
    return accounts


async def make_first_accounts(
    database: Database,
    auditor: Auditor,
    accounts: list[FirstAccount],
    hasher: SecretHasher,
    now: datetime,
    new_id: Callable[[], UUID],
) -> None:
    """Several admins may do this at once: the second finds the client_id already used, which is fine."""
    async with database.begin() as conn:
        known = await find_accounts(conn, [account.client_id for account in accounts])
        made = await list_bootstrapped(conn)
        await record_bootstrapped(conn, known.keys() - made)
    for first in accounts:
        if first.client_id in known or first.client_id in made:
            continue
        account = Account(
            account_id=new_id(),
            client_id=first.client_id,
            role=first.role,
            own_permissions=tuple(first.permissions),
            name="",
            description="made at the first start",
            suspended=False,
            rate_per_minute=first.rate_per_minute,
            expires_at=None,
            secret_hash=hasher.hash(first.client_secret),
            previous_secret_hash=None,
            previous_secret_until=None,
            created_at=now,
            updated_at=now,
        )
        try:
            async with database.begin() as conn:
                await insert_account(conn, account)
                await record_bootstrapped(conn, {first.client_id})
                metadata = {"client_id": account.client_id, "role": account.role.value, "bootstrap": True}
                await auditor.record(conn, Event("account:create", ISSUER, str(account.account_id), metadata=metadata))
        except Conflict:
            continue
        log.info("account created", client_id=account.client_id, role=account.role.value)
