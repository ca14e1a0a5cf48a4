"""`login` and `logout`: address and credentials, kept for the other commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..command import plain_command
from ..errors import CommandError, ExitCode, UsageError
from ..output import Output, printable

if TYPE_CHECKING:
    from ..connection import Connection

ProfileName = Annotated[str, typer.Option("--profile", help="The name to keep it under, when you use several systems.")]


def add_to(app: typer.Typer) -> None:
    plain_command(app, "login")(login)
    plain_command(app, "logout")(logout)


def login(
    out: Output,
    url: Annotated[str, typer.Argument(metavar="URL", help="The address of the system, as https://files.example.org.")],
    client_id: Annotated[str | None, typer.Option(help="The account. Asked for when absent.")] = None,
    credentials: Annotated[
        Path | None, typer.Option(help='A file {"client_id", "client_secret"}, such as admin-client.json.')
    ] = None,
    profile: ProfileName = "default",
) -> None:
    """Check an address with client credentials, and keep them. The secret is asked for, or read from standard input."""
    import asyncio
    from dataclasses import replace

    from ..connection import Connection, config_file, load_credentials, load_profiles, parse_url, store_profiles

    address = parse_url(url)
    if credentials is not None:
        if client_id is not None:
            raise UsageError("--client-id and --credentials exclude each other")
        client_id, secret = load_credentials(credentials)
    else:
        client_id, secret = _ask(client_id)
    connection = Connection(address, client_id, secret, source="these options")
    if not (connection.encrypted or connection.on_loopback):
        out.note(f"artstore: {printable(address)} is not encrypted: others on the network can read the credentials")
    asyncio.run(_check(connection))
    profiles = load_profiles()
    profiles[profile] = replace(connection, source="")
    store_profiles(profiles)
    out.item(
        {"url": address, "client_id": client_id, "profile": profile, "file": str(config_file())},
        f"logged in to {printable(address)} as {printable(client_id)}; kept in {config_file()}",
    )


def logout(out: Output, profile: ProfileName = "default") -> None:
    """Forget the credentials of a profile."""
    from ..connection import load_profiles, store_profiles

    profiles = load_profiles()
    if profiles.pop(profile, None) is None:
        raise CommandError(f"there is no profile {profile!r}", code="not_logged_in", exit_code=ExitCode.NOT_FOUND)
    store_profiles(profiles)
    out.item({"profile": profile}, f"forgot profile {printable(profile)}")


def _ask(client_id: str | None) -> tuple[str, str]:
    """Client id and secret from the terminal, without echo of the secret; else the secret is a line of standard input."""
    if sys.stdin.isatty():
        from getpass import getpass

        client_id = client_id or str(typer.prompt("client id", err=True))
        return client_id, getpass("client secret: ")
    if client_id is None:
        raise UsageError("--client-id is missing", "or give --credentials FILE")
    return client_id, sys.stdin.readline().strip()


async def _check(connection: Connection) -> None:
    """Fetches a token, and a page of files to see that the address is the gateway's. Raises ArtStoreError."""
    from artstore_client import Forbidden, NotFound

    from ..command import client_of

    async with client_of(connection) as store:
        await store.token()
        try:
            async for _ in store.files(limit=1):
                break
        except Forbidden:
            pass  # an auditor reads no files
        except NotFound:
            raise CommandError(
                f"{connection.url} is one service of ArtStore, not the gateway",
                code="invalid_answer",
                hint="use the address of the gateway, such as http://127.0.0.1:8080",
                exit_code=ExitCode.UNREACHABLE,
            ) from None
