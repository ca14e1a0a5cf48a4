"""Changes that a test makes to the catalog directly, over a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from ..running import Neighbours, RunningElement, eventually


@dataclass
class Catalog:
    connection: asyncpg.Connection

    async def states(self) -> dict[str, str]:
        rows = await self.connection.fetch("SELECT file_id::text, state FROM files")
        return {row[0]: row[1] for row in rows}

    async def attributes(self) -> dict[str, bytes]:
        rows = await self.connection.fetch("SELECT file_id::text, attributes FROM files")
        return {row[0]: row[1].encode() for row in rows}

    async def run(self, statement: str, *values: Any) -> None:
        await self.connection.execute(statement, *values)

    async def commit(self, *file_ids: str) -> None:
        """As admin does at the end of an upload's saga."""
        await self.run(
            "UPDATE files SET state = 'available', saga_id = NULL WHERE file_id = ANY($1::uuid[])", list(file_ids)
        )

    async def add_saga(self, saga_id: str, file_id: str, state: str) -> None:
        await self.run(
            "INSERT INTO sagas (saga_id, kind, state, file_id, storage_element_id, owner) "
            "VALUES ($1, 'upload', $2, $3, 'se-01', 'tests')",
            saga_id, state, file_id,
        )  # fmt: skip


@asynccontextmanager
async def catalog_of(neighbours: Neighbours) -> AsyncIterator[Catalog]:
    connection = await asyncpg.connect(neighbours.database_url.replace("+asyncpg", ""))
    try:
        yield Catalog(connection)
    finally:
        await connection.close()


async def upkeep_of(element: RunningElement) -> dict[str, Any]:
    return dict((await element.ask("GET", "/api/element")).json["upkeep"])


async def rebuilt(element: RunningElement, **order: Any) -> dict[str, Any]:
    """The state of a rebuild that has come to its end."""
    answer = await element.ask("POST", "/api/element/rebuild", json=order)
    assert answer.status == 202, answer.body
    return await _ended(element, "rebuild")


async def verified(element: RunningElement) -> dict[str, Any]:
    answer = await element.ask("POST", "/api/element/verify", json={})
    assert answer.status == 202, answer.body
    return await _ended(element, "verify")


async def _ended(element: RunningElement, task: str) -> dict[str, Any]:
    async def state() -> dict[str, Any] | None:
        upkeep = await upkeep_of(element)
        return dict(upkeep[task]) if upkeep[task]["finished_at"] and task not in upkeep["running"] else None

    return await eventually(state)


async def all_confirmed(element: RunningElement) -> bool:
    return bool((await upkeep_of(element))["unconfirmed_files"] == 0)


def data_path(root: Path, file_id: str) -> Path:
    return root / "files" / file_id[-4:-2] / file_id[-2:] / file_id


def attributes_path(root: Path, file_id: str) -> Path:
    return data_path(root, file_id).with_name(f"{file_id}.attr.json")


def on_disk(root: Path) -> dict[str, bytes]:
    return {path.name.removesuffix(".attr.json"): path.read_bytes() for path in (root / "files").rglob("*.attr.json")}
