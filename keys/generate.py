#!/usr/bin/env python3
"""Creates the secrets of one ArtStore system in a folder. Existing files are kept, so running it again
changes nothing.

Standard library only: it runs before anything else does, on the host for `./artstore up` and in a container
for compose. Every file is written atomically (temporary file, fsync, rename) and is never readable by others.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

ADMIN_CLIENT_ID = "admin"
ADMIN_RATE_PER_MINUTE = 600_000
"""The account that creates all others must not be limited to 100 requests a minute (docs/decisions)."""
ELEMENTS = ("se-01", "se-02", "se-03")
ELEMENT_PERMISSIONS = ["elements:report"]
ELEMENT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
SERVICE_PERMISSIONS = {
    "ingester": ["elements:read", "sagas:write", "storage:read", "storage:write"],
    "query": ["elements:read", "storage:read"],
}
"""The accounts of the other modules, each with exactly what its calls need."""

SHARED_GROUP, ADMIN_GROUP, ELEMENT_GROUP, INGESTER_GROUP, QUERY_GROUP = 10000, 10001, 10002, 10003, 10004
MIGRATIONS_GROUP, BACKUP_GROUP = 10005, 10006
"""Group ids of the images' users; only used with --containers."""

DATABASE_LOGINS = {
    "admin": ADMIN_GROUP,
    "element": ELEMENT_GROUP,
    "ingester": INGESTER_GROUP,
    "query": QUERY_GROUP,
    "backup": BACKUP_GROUP,
}
"""Each module kind, and the backup, has a PostgreSQL role of its own, artstore_<kind>, and the group that may
read its login."""


class Unusable(Exception):
    """The folder holds a file that is unusable and must not be overwritten."""


def secret_text() -> str:
    """256 random bits, in characters that need no quoting in a URL."""
    return secrets.token_urlsafe(32)


def key_text() -> str:
    """A 32-byte key, base64."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


class Folder:
    """The folder of secrets. With `containers`, each file belongs to the folder's owner and to the group of
    its readers."""

    def __init__(self, path: Path, *, containers: bool) -> None:
        self.path = path
        self.containers = containers
        mode = 0o711 if containers else 0o700
        new = not path.exists()
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        if new or containers:
            path.chmod(mode)
        self.owner, self.group = path.stat().st_uid, path.stat().st_gid

    def keep(self, name: str, make: Callable[[], str], *, group: int | None = None) -> str:
        """The content of `name`, which is created if it is missing."""
        path = self.path / name
        if path.exists():
            self._hand_over(path, group)
        else:
            self.write(name, make(), group=group)
        text = path.read_text()
        if not text.strip():
            raise Unusable(f"{path} is empty: remove it, and it is created again")
        return text

    def write(self, name: str, text: str, *, group: int | None = None) -> None:
        """Write `name` atomically, unless it already has this content."""
        path = self.path / name
        if not (path.exists() and path.read_text() == text):
            temporary = self.path / f".{name}.{os.getpid()}.tmp"
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._hand_over(temporary, group)
            os.replace(temporary, path)
        else:
            self._hand_over(path, group)

    def _hand_over(self, path: Path, group: int | None) -> None:
        """Set owner and mode, whatever the umask was or a copy has changed."""
        if self.containers:
            os.chown(path, self.owner, self.group if group is None else group)
        path.chmod(0o640 if self.containers and group is not None else 0o600)


def known_secret(folder: Folder, client_id: str) -> str:
    """The account's secret in accounts.json, if only its own file was lost; otherwise a new one."""
    try:
        kept = {
            one["client_id"]: str(one["client_secret"])
            for one in json.loads((folder.path / "accounts.json").read_text())
        }
    except (OSError, ValueError, KeyError, TypeError):
        kept = {}
    return kept.get(client_id) or secret_text()


def keep_admin(folder: Folder) -> dict[str, str]:
    """The first ADMIN account's credentials, stored as the body of a token request."""

    def make() -> str:
        return json.dumps({"client_id": ADMIN_CLIENT_ID, "client_secret": known_secret(folder, ADMIN_CLIENT_ID)}) + "\n"

    text = folder.keep("admin-client.json", make)
    try:
        client = json.loads(text)
        return {"client_id": str(client["client_id"]), "client_secret": str(client["client_secret"])}
    except (ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{folder.path / 'admin-client.json'} is damaged: {error}") from error


def elements_of(folder: Folder, more: Sequence[str]) -> list[str]:
    """The default elements, those that have a secret already, and `more`."""
    for element in more:
        if not ELEMENT_ID.fullmatch(element) or element in (ADMIN_CLIENT_ID, *SERVICE_PERMISSIONS):
            raise Unusable(f"{element!r} cannot be the id of an element: use a-z, 0-9 and -, as in se-04")
    present = {path.name.removesuffix(".secret") for path in folder.path.glob("*.secret")}
    return sorted({*ELEMENTS, *present, *more} - SERVICE_PERMISSIONS.keys())


def keep_accounts(folder: Folder, elements: Sequence[str]) -> None:
    """The list from which admin creates its first accounts. Derived from the other files."""
    accounts: list[dict[str, object]] = [
        {**keep_admin(folder), "role": "ADMIN", "permissions": [], "rate_per_minute": ADMIN_RATE_PER_MINUTE}
    ]
    for client_id, permissions in {**dict.fromkeys(elements, ELEMENT_PERMISSIONS), **SERVICE_PERMISSIONS}.items():
        group = {"ingester": INGESTER_GROUP, "query": QUERY_GROUP}.get(client_id, ELEMENT_GROUP)
        secret = folder.keep(f"{client_id}.secret", partial(known_secret, folder, client_id), group=group)
        client = {"client_id": client_id, "client_secret": secret}
        accounts.append({**client, "role": "SERVICE", "permissions": permissions})
    folder.write("accounts.json", json.dumps(accounts, indent=1) + "\n", group=ADMIN_GROUP)


def keep_s3(folder: Folder) -> None:
    """One S3 identity, and SeaweedFS's list of identities, without which its S3 is open to everyone."""
    access = folder.keep("s3-access-key-id", lambda: secrets.token_hex(10), group=ELEMENT_GROUP)
    secret = folder.keep("s3-secret-access-key", secret_text, group=ELEMENT_GROUP)
    identity = {
        "name": "artstore",
        "credentials": [{"accessKey": access, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    folder.write("s3-identities.json", json.dumps({"identities": [identity]}, indent=1) + "\n", group=ELEMENT_GROUP)


def keep_database(folder: Folder, address: str) -> None:
    """The owner's login, for migrations and operators, and one login for each kind of module."""
    password = folder.keep("postgres-password", secret_text)
    owner = f"postgresql+asyncpg://artstore:{password}@{address}/artstore"
    folder.write("database-url", owner, group=MIGRATIONS_GROUP)
    kept = folder.keep("database-roles.json", lambda: "{}\n", group=MIGRATIONS_GROUP)
    try:
        passwords = {str(name): str(value) for name, value in json.loads(kept).items()}
    except (ValueError, AttributeError) as error:
        raise Unusable(f"{folder.path / 'database-roles.json'} is damaged: {error}") from error
    roles = {f"artstore_{kind}": passwords.get(f"artstore_{kind}") or secret_text() for kind in DATABASE_LOGINS}
    folder.write("database-roles.json", json.dumps(roles, indent=1) + "\n", group=MIGRATIONS_GROUP)
    for kind, group in DATABASE_LOGINS.items():
        login = f"artstore_{kind}:{roles[f'artstore_{kind}']}"
        folder.write(f"database-url-{kind}", f"postgresql+asyncpg://{login}@{address}/artstore", group=group)


def generate(folder: Folder, elements: Sequence[str], *, database: str, redis: str) -> None:
    keep_accounts(folder, elements_of(folder, elements))
    folder.keep("key-encryption-key", key_text, group=ADMIN_GROUP)
    folder.keep("secret-hash-key", key_text, group=ADMIN_GROUP)
    keep_s3(folder)
    keep_database(folder, database)
    password = folder.keep("redis-password", secret_text, group=SHARED_GROUP)
    folder.write("redis-url", f"redis://:{password}@{redis}/0", group=SHARED_GROUP)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--database", default="postgres:5432", metavar="HOST:PORT", help="for database-url")
    parser.add_argument("--redis", default="redis:6379", metavar="HOST:PORT", help="for redis-url")
    parser.add_argument(
        "--element", action="append", default=[], metavar="ID", help="an account for one more element; repeatable"
    )
    parser.add_argument(
        "--containers", action="store_true", help="give each file to the group of the image that reads it"
    )
    asked = parser.parse_args()
    try:
        folder = Folder(asked.folder, containers=asked.containers)
        generate(folder, asked.element, database=asked.database, redis=asked.redis)
    except Unusable as error:
        print(f"keys: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"keys: cannot write to {asked.folder}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
