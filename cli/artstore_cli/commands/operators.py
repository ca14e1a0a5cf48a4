"""For operators: `elements`, `mode`, `accept-root`, `rebuild`, `accounts`, `sagas`, `audit list`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from ..command import Session, client_command
from ..errors import CommandError, ExitCode
from ..lists import DEFAULT_LIMIT, Limit, one_more, show_list
from ..output import Column, plain_text, printable, size_text, time_text
from ..values import parse_duration, parse_time
from .files import Yes

if TYPE_CHECKING:
    from artstore_client import Account

REBUILD_RETRY_FOR_S = 30.0
"""An element needs some seconds to begin after its root was accepted."""

ELEMENT_COLUMNS = (
    Column("ID", "id"),
    Column("MODE", "mode"),
    Column("STATUS", "status"),
    Column("FILES", "files", right=True),
    Column("USED", "used_bytes", size_text, right=True),
    Column("FREE", "available_bytes", size_text, right=True),
    Column("FILL", "fill"),
    Column("BACKEND", "backend"),
    Column("REASON", "why", elastic=True),
)
ACCOUNT_COLUMNS = (
    Column("ID", "id"),
    Column("CLIENT ID", "client_id", elastic=True),
    Column("ROLE", "role"),
    Column("SUSPENDED", "suspended"),
    Column("NAME", "name", elastic=True),
)
SAGA_COLUMNS = (
    Column("ID", "saga_id"),
    Column("KIND", "kind"),
    Column("STATE", "state"),
    Column("BEGUN", "begun_at", time_text),
    Column("ELEMENT", "storage_element_id"),
    Column("WAITS FOR", "waits_for", elastic=True),
    Column("ERROR", "last_error", elastic=True),
)
EVENT_COLUMNS = (
    Column("TIME", "timestamp", time_text),
    Column("SERVICE", "service"),
    Column("ACTION", "action"),
    Column("RESULT", "result"),
    Column("USER", "user_id", elastic=True),
    Column("RESOURCE", "resource", elastic=True),
    Column("DETAILS", "metadata", elastic=True),
)


class Role(StrEnum):
    USER = "USER"
    READONLY = "READONLY"
    AUDITOR = "AUDITOR"
    ADMIN = "ADMIN"


class NextMode(StrEnum):
    RO = "ro"
    AR = "ar"


ElementId = Annotated[str, typer.Argument(metavar="ELEMENT", help="The id of the element, as se-02.")]
AccountId = Annotated[str, typer.Argument(metavar="CLIENT_ID", help="The client_id of the account, or its id.")]
Save = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write client id and secret to this new file instead (mode 0600).")
]


def add_to(app: typer.Typer, audit: typer.Typer) -> None:
    client_command(app, "elements")(elements)
    client_command(app, "mode")(mode)
    client_command(app, "accept-root")(accept_root)
    client_command(app, "rebuild", retry_for_s=REBUILD_RETRY_FOR_S)(rebuild)
    accounts = typer.Typer(no_args_is_help=True, help="Accounts for programs and people.", rich_markup_mode=None)
    for name, handler in (
        ("list", list_accounts),
        ("create", create_account),
        ("rotate", rotate_account),
        ("suspend", suspend_account),
        ("resume", resume_account),
        ("delete", delete_account),
    ):
        client_command(accounts, name)(handler)
    app.add_typer(accounts, name="accounts")
    sagas = typer.Typer(
        no_args_is_help=True, help="Uploads and changes in progress, and those that wait.", rich_markup_mode=None
    )
    client_command(sagas, "list")(list_sagas)
    client_command(sagas, "show")(show_saga)
    app.add_typer(sagas, name="sagas")
    client_command(audit, "list")(list_events)


async def elements(session: Session) -> None:
    """List the storage elements, in the order in which they are filled."""
    await show_list(session.out, session.store.elements.list(), ELEMENT_COLUMNS, 0, _element_row)


def _element_row(item: dict[str, Any]) -> dict[str, Any]:
    why = item["read_only_reason"] or item["away_reason"] or ("its root was refused" if item["refused"] else "")
    return {**item, **item["capacity"], "why": why}


async def mode(
    session: Session,
    element: ElementId,
    to: Annotated[NextMode, typer.Argument(metavar="ro|ar", help="ro: no new files. ar: an archive.")],
    yes: Yes = False,
) -> None:
    """Move an element to its next mode: rw to ro, ro to ar. There is no way back."""
    session.out.confirm(f"Move {printable(element)} to mode {to}? There is no way back.", yes)
    changed = await session.store.elements.set_mode(element, to.value)
    item = changed.to_json()
    session.out.item(item, f"{printable(element)} is {item.get('mode')}")


async def accept_root(session: Session, element: ElementId, yes: Yes = False) -> None:
    """Accept the root (disk or bucket) that was refused last as the element's. The root before it is refused then."""
    session.out.confirm(
        f"Accept the root that was refused as that of {printable(element)}, and refuse its present one?", yes
    )
    accepted = await session.store.elements.accept_root(element)
    session.out.item(accepted.to_json(), f"the root of {printable(element)} is accepted")


async def rebuild(
    session: Session,
    element: ElementId,
    force: Annotated[
        bool, typer.Option("--force", help="Also when most of its rows in the catalog would be deleted.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Begin to bring the catalog in line with an element's disk: add files that it lacks, delete rows without a file."""
    if force:
        question = f"Delete the rows of all files that {printable(element)} does not have from the catalog?"
        session.out.confirm(question, yes)
    upkeep = await session.store.elements.rebuild(element, force=force)
    session.out.item(upkeep, f"{printable(element)} rebuilds its part of the catalog")


async def list_accounts(session: Session, limit: Limit = 0) -> None:
    """List all accounts."""
    await show_list(session.out, session.store.accounts.list(limit=one_more(limit)), ACCOUNT_COLUMNS, limit)


async def create_account(
    session: Session,
    client_id: Annotated[str | None, typer.Argument(metavar="[CLIENT_ID]", help="Made up when absent.")] = None,
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.USER,
    permission: Annotated[list[str] | None, typer.Option(help="A permission beyond its role; repeat it.")] = None,
    name: Annotated[str, typer.Option(help="Who or what it is for.")] = "",
    description: Annotated[str, typer.Option(help="More about it.")] = "",
    rate: Annotated[int | None, typer.Option(min=1, help="Requests per minute.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="The end of its life.")] = None,
    save: Save = None,
) -> None:
    """Create an account. The secret is shown once, now."""
    _check_new(save)
    made = await session.store.accounts.create(
        client_id,
        role=role.value,
        permissions=permission or (),
        name=name,
        description=description,
        rate_per_minute=rate,
        expires_at=parse_time("--expires", expires),
    )
    _show_secret(session, made.to_json(), save)


async def rotate_account(
    session: Session,
    account: AccountId,
    grace: Annotated[str, typer.Option(help="How long the old secret stays valid; 0 ends it and its tokens.")] = "1d",
    save: Save = None,
) -> None:
    """Give an account a new secret. It is shown once, now."""
    _check_new(save)
    found = await _find(session, account)
    made = await session.store.accounts.rotate(found.id, grace_s=parse_duration(grace))
    _show_secret(session, made.to_json(), save)


async def suspend_account(session: Session, account: AccountId) -> None:
    """Refuse an account until it is resumed. Its tokens and links end."""
    await _change(session, account, suspended=True)


async def resume_account(session: Session, account: AccountId) -> None:
    """Let a suspended account work again."""
    await _change(session, account, suspended=False)


async def delete_account(session: Session, account: AccountId, yes: Yes = False) -> None:
    """Delete an account. Its files stay."""
    found = await _find(session, account)
    session.out.confirm(f"Delete the account {printable(found.client_id)} for ever?", yes)
    await session.store.accounts.delete(found.id)
    session.out.item({**found.to_json(), "deleted": True}, f"deleted {printable(found.client_id)}")


async def list_sagas(
    session: Session,
    state: Annotated[str | None, typer.Option(help="Only in this state, as committed.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, as upload or delete.")] = None,
    element: Annotated[str | None, typer.Option(help="Only of this element.")] = None,
    hanging: Annotated[bool, typer.Option("--hanging", help="Only those that should be finished and are not.")] = False,
    limit: Limit = DEFAULT_LIMIT,
) -> None:
    """List sagas (uploads, queued changes, changes of mode), newest first."""
    listing = session.store.sagas.list(state=state, kind=kind, element=element, hanging=hanging, limit=one_more(limit))
    await show_list(session.out, listing, SAGA_COLUMNS, limit)


async def show_saga(
    session: Session, saga_id: Annotated[str, typer.Argument(metavar="ID", help="The saga_id.")]
) -> None:
    """Show one saga."""
    session.out.details((await session.store.sagas.get(saga_id)).to_json())


async def list_events(
    session: Session,
    action: Annotated[str | None, typer.Option(help="Only this action, as file:delete.")] = None,
    user: Annotated[str | None, typer.Option(help="Only of this account's id.")] = None,
    resource: Annotated[str | None, typer.Option(help="Only about this file, element, account or key.")] = None,
    result: Annotated[str | None, typer.Option(help="success, denied or failure.")] = None,
    service: Annotated[str | None, typer.Option(help="Only of this service, as admin or se-01.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="At or after this time.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before this time.")] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> None:
    """List events of the audit log, newest first."""
    listing = session.store.audit.events(
        action=action, user_id=user, resource=resource, result=result, service=service,
        since=parse_time("--since", since), until=parse_time("--until", until), limit=one_more(limit),
    )  # fmt: skip
    await show_list(session.out, listing, EVENT_COLUMNS, limit)


async def _change(session: Session, account: str, *, suspended: bool) -> None:
    found = await _find(session, account)
    changed = await session.store.accounts.update(found.id, suspended=suspended)
    session.out.item(
        changed.to_json(), f"{printable(changed.client_id)} is {'suspended' if changed.suspended else 'active'}"
    )


async def _find(session: Session, account: str) -> Account:
    """By id or client_id. Raises NotFound or CommandError."""
    try:
        return await session.store.accounts.get(str(UUID(account)))
    except ValueError:
        pass
    async for one in session.store.accounts.list():
        if one.client_id == account:
            return one
    raise CommandError(
        f"there is no account {account!r}",
        code="not_found",
        hint="list them with: artstore accounts list",
        exit_code=ExitCode.NOT_FOUND,
    )


def _check_new(save: Path | None) -> None:
    """Before the secret is made, which could not be shown again."""
    if save is not None and save.exists():
        raise CommandError(f"{save} exists", hint="choose another file for --save", exit_code=ExitCode.CONFLICT)
    if save is not None and not save.absolute().parent.is_dir():
        raise CommandError(f"the folder of {save} does not exist")


def _show_secret(session: Session, made: dict[str, Any], save: Path | None) -> None:
    if save is None:
        session.out.details(made)
        session.out.note("keep client_secret: it is not shown again")
        return
    import json

    from ..connection import write_private

    kept = {name: made[name] for name in ("client_id", "client_secret")}
    write_private(save, json.dumps(kept) + "\n")
    del made["client_secret"]
    session.out.details({**made, "saved": str(save)}, {"permissions": plain_text})
