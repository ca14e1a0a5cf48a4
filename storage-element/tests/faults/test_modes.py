"""The operations that each mode allows on a real element, and that a mode never goes back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from artstore.clock import uuid7
from artstore.contracts.elements import Mode
from artstore.contracts.storage import SAGA_HEADER
from artstore.modes import ALLOWED, Operation

from ..running import Neighbours, RunningElement, eventually, running_element
from .journal import ABSENT, State
from .outside import check_element, pieces_of, stored

SMALL, LARGE = b"small", os.urandom(300_000)


class Held:
    """Files that stand, by id, and what is asked of them in each mode."""

    def __init__(self, element: RunningElement, allowed: dict[str, list[State]]) -> None:
        self.element, self.allowed = element, allowed

    async def put(self, content: bytes, saga_id: str | None = None) -> str:
        file_id, state = stored(await self.element.put(content, saga_id=saga_id), content)
        self.allowed[file_id] = [state]
        return file_id

    async def statuses(self, operation: Operation, file_id: str) -> set[int]:
        """The status of every request of this operation: 200, 201, 204 where it is allowed, else 409 mode_forbids."""
        path, ask = f"/api/files/{file_id}", self.element.ask
        if operation is Operation.CREATE:
            answers = [await self.element.put(content) for content in (SMALL, LARGE)]
            self.allowed.update(
                {
                    one.json["file_id"]: [stored(one, content)[1]]
                    for one, content in zip(answers, (SMALL, LARGE), strict=True)
                    if one.status == 201
                }
            )
        elif operation is Operation.READ:
            answers = [
                await ask(*what)
                for what in (
                    ("GET", path),
                    ("GET", f"{path}/content"),
                    ("HEAD", f"{path}/content"),
                    ("GET", "/api/files"),
                )
            ]
        elif operation is Operation.UPDATE:
            answers = [await ask("PATCH", path, json={"tags": ["changed"]})]
            answers += [await ask("PUT", f"{path}/content", data=content) for content in (LARGE, SMALL)]
            if answers[-1].status == 200:
                self.allowed[file_id] = [stored(answers[-1], SMALL)[1]]
        else:
            answers = [await ask("DELETE", path)]
            if answers[0].status == 204:
                self.allowed[file_id] = [ABSENT]
        assert all(answer.status != 409 or answer.json["code"] == "mode_forbids" for answer in answers)
        return {answer.status for answer in answers}

    async def check_mode(self, mode: Mode, spare: list[str]) -> None:
        assert (await self.element.ask("GET", "/api/element")).json["mode"] == mode
        for operation in Operation:
            statuses = await self.statuses(operation, spare[-1])
            if operation in ALLOWED[mode]:
                assert max(statuses) < 300, f"{mode} {operation}: {statuses}"
            else:
                assert statuses == {409}, f"{mode} {operation}: {statuses}"
        if Operation.DELETE in ALLOWED[mode]:
            spare.pop()

    async def change(self, mode: str) -> int:
        return (await self.element.ask("POST", "/api/element/mode", json={"mode": mode})).status


async def test_every_mode_allows_its_operations_and_its_transitions(own_neighbours: Neighbours, tmp_path: Path) -> None:
    allowed: dict[str, list[State]] = {}
    root, saga_id = tmp_path / "se", str(uuid7())
    async with running_element(own_neighbours, root, STORAGE_MODE="edit") as element:
        held = Held(element, allowed)
        spare = [await held.put(SMALL), await held.put(LARGE)]
        await held.check_mode(Mode.EDIT, spare)
        assert [await held.change(mode) for mode in ("rw", "ro", "ar", "edit")] == [409, 409, 409, 200]
    async with running_element(own_neighbours, root, STORAGE_MODE="rw") as element:
        held = Held(element, allowed)
        own = await held.put(SMALL, saga_id)
        await held.check_mode(Mode.RW, spare)
        assert [await held.change(mode) for mode in ("edit", "ar", "rw")] == [409, 409, 200]
        await change_during_an_upload(held)
        await held.check_mode(Mode.RO, spare)
        assert [await held.change(mode) for mode in ("edit", "rw", "ro")] == [409, 409, 200]
    async with running_element(own_neighbours, root, STORAGE_MODE="rw") as element:
        held = Held(element, allowed)
        await held.check_mode(Mode.RO, spare)
        assert await held.change("ar") == 200
        await held.check_mode(Mode.AR, spare)
        assert [await held.change(mode) for mode in ("edit", "rw", "ro", "ar")] == [409, 409, 409, 200]
        # A saga takes back what it put and has not committed, in any mode; another's it does not.
        path = f"/api/files/{own}"
        assert (await element.ask("DELETE", path, headers={SAGA_HEADER: str(uuid7())})).status == 409
        assert (await element.ask("DELETE", path, headers={SAGA_HEADER: saga_id})).status == 204
        allowed[own] = [ABSENT]
        await check_element(element, own_neighbours, allowed, mode_before=Mode.AR)


async def change_during_an_upload(held: Held) -> None:
    """A running operation may finish in the mode in which it began; a later one may not begin."""
    gate, content, file_id = asyncio.Event(), os.urandom(2_000_000), str(uuid7())
    upload = asyncio.create_task(held.element.put(pieces_of(content, gate, 1_000_000), file_id=file_id))
    await eventually(lambda: is_taking(held.element))
    assert await held.change("ro") == 200
    assert (await held.element.put(SMALL)).status == 409
    gate.set()
    assert (await upload).status == 201
    held.allowed[file_id] = [stored(upload.result(), content)[1]]


async def is_taking(element: RunningElement) -> bool:
    return any((element.root / "tmp").iterdir())


async def test_a_mode_is_reverted_only_by_force(own_neighbours: Neighbours, tmp_path: Path) -> None:
    root = tmp_path / "se"
    for configured, force, mode in [
        ("ar", "false", "ar"),
        ("rw", "true", "rw"),
        ("edit", "false", "rw"),
    ]:
        settings = {"STORAGE_MODE": configured, "STORAGE_MODE_FORCE": force}
        async with running_element(own_neighbours, root, **settings) as element:
            assert (await element.ask("GET", "/api/element")).json["mode"] == mode
    assert "further back" in root.with_suffix(".log").read_text()
