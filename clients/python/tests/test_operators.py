"""An operator's work: accounts, elements, sagas, audit."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

import artstore_client as artstore
from artstore_client import Client


async def test_an_account_is_created_changed_rotated_and_deleted(store: Client, connect: Callable[..., Client]) -> None:
    client_id = f"test-{uuid.uuid4().hex[:8]}"
    made = await store.accounts.create(client_id, role="READONLY", rate_per_minute=500)
    assert (made.client_id, made.role, made.rate_per_minute) == (client_id, "READONLY", 500)
    assert made.client_secret not in repr(made)
    async with connect(client_id=client_id, client_secret=made.client_secret) as reader:
        with pytest.raises(artstore.Forbidden):
            await reader.upload(b"x")
    changed = await store.accounts.update(made.id, name="Reader", rate_per_minute=None)
    assert (changed.name, changed.rate_per_minute, changed.role) == ("Reader", None, "READONLY")
    rotated = await store.accounts.rotate(made.id, grace_s=0)
    async with connect(client_id=client_id, client_secret=made.client_secret) as reader:
        with pytest.raises(artstore.Unauthenticated):
            await reader.token()
    async with connect(client_id=client_id, client_secret=rotated.client_secret) as reader:
        await reader.files(limit=1).all()
    assert client_id in [account.client_id async for account in store.accounts.list()]
    await store.accounts.delete(made.id)
    with pytest.raises(artstore.NotFound):
        await store.accounts.get(made.id)


async def test_elements_sagas_and_audit_are_read(store: Client) -> None:
    elements = await store.elements.list().all()
    assert {element.id: element.mode for element in elements} == {"se-01": "edit", "se-02": "rw", "se-03": "rw"}
    assert elements[0].capacity.total_bytes > 0
    record = await store.upload(b"x", retention="temporary")
    await store.delete(record.file_id)
    sagas = await store.sagas.list(limit=5).all()
    assert sagas
    assert sagas[0].finished
    assert await store.sagas.get(sagas[0].saga_id)
    events = await store.audit.events(action="file:delete", resource=record.file_id).all()
    assert [event.result for event in events] == ["success"]
    assert b"file:delete" in b"".join([chunk async for chunk in store.audit.export()])
    assert await store.elements.verify("se-01") is not None
    with pytest.raises(artstore.Conflict):
        await store.elements.set_mode("se-02", "edit")


async def test_records_give_back_every_member_as_it_was_sent(store: Client) -> None:
    given = {**(await store.upload(b"x")).to_json(), "later": {"a": 1}}
    record = artstore.FileRecord.from_json(given)
    assert record.extra == {"later": {"a": 1}}
    assert record.to_json() == given
