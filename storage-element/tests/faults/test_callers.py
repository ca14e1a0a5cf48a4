"""Callers that stall, are slow, vanish or race each other leave nothing behind and disturb no other caller."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from artstore.clock import uuid7
from artstore.contracts.storage import SAGA_HEADER

from ..running import Neighbours, RunningElement, eventually, running_element
from .journal import ABSENT, State, state_of
from .outside import begin_put, check_element, pieces_of, stored

PART, WHOLE = 200_000, 2_000_000
MIN_RATE = 1000
RACERS = 10


async def test_a_stalled_or_slow_sender_is_cut_off_and_leaves_no_temp(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    settings = {"BODY_IDLE_TIMEOUT_S": "3", "BODY_MIN_RATE_BYTES_PER_S": str(MIN_RATE)}
    async with running_element(own_neighbours, tmp_path / "se", **settings) as element:
        assert tuple(await asyncio.gather(stall(element), dawdle(element), vanish(element))) == (408, 408, 0)
        content = os.urandom(WHOLE)
        file_id, state = stored(await element.put(content), content)
        await check_element(element, own_neighbours, {file_id: [state]})


async def stall(element: RunningElement) -> int:
    sender = await begin_put(element, str(uuid7()), str(uuid7()), WHOLE)
    await sender.send(bytes(PART))
    return await sender.status()


async def dawdle(element: RunningElement) -> int:
    """Never idle for long, and always too slow."""
    sender = await begin_put(element, str(uuid7()), str(uuid7()), WHOLE)
    answer = asyncio.create_task(sender.status())
    while not answer.done():
        await sender.send(bytes(MIN_RATE // 20))
        await asyncio.wait({answer}, timeout=0.2)
    return answer.result()


async def vanish(element: RunningElement) -> int:
    sender = await begin_put(element, str(uuid7()), str(uuid7()), WHOLE)
    await sender.send(bytes(PART))
    sender.close()
    return 0


async def test_concurrent_changes_of_one_file_are_whole_or_refused(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with running_element(own_neighbours, tmp_path / "se") as element:
        file_id, contents = str(uuid7()), [os.urandom(100 + 20_000 * n) for n in range(RACERS)]
        puts = await asyncio.gather(*(element.put(content, file_id=file_id) for content in contents))
        assert sorted(put.status for put in puts) == [201] + [409] * (RACERS - 1)
        winner = next(content for put, content in zip(puts, contents, strict=True) if put.status == 201)
        path = f"/api/files/{file_id}"
        assert (await element.ask("GET", f"{path}/content")).body == winner

        once = [element.ask("PATCH", path, json={"tags": [str(n)]}, headers={"if-match": '"1"'}) for n in range(RACERS)]
        assert sorted(answer.status for answer in await asyncio.gather(*once)) == [200] + [412] * (RACERS - 1)
        changes = [element.ask("PATCH", path, json={"tags": [str(n)]}) for n in range(RACERS)]
        rewrites = [element.ask("PUT", f"{path}/content", data=content) for content in contents]
        reads = [element.ask("GET", f"{path}/content") for _ in range(RACERS)]
        answers = await asyncio.gather(*changes, *rewrites, *reads)
        assert {answer.status for answer in answers} == {200}
        assert {answer.body for answer in answers[2 * RACERS :]} <= {winner, *contents}
        revisions = sorted(answer.json["revision"] for answer in answers[: 2 * RACERS])
        assert revisions == list(range(3, 3 + 2 * RACERS))

        answers = await asyncio.gather(*(element.ask("DELETE", path) for _ in range(RACERS)))
        assert sorted(answer.status for answer in answers) == [204] + [404] * (RACERS - 1)
        await check_element(element, own_neighbours, {file_id: [ABSENT]})


async def test_a_compensation_stops_the_put_that_is_running(own_neighbours: Neighbours, tmp_path: Path) -> None:
    async with running_element(own_neighbours, tmp_path / "se") as element:
        file_id, saga_id, gate = str(uuid7()), str(uuid7()), asyncio.Event()
        content = os.urandom(WHOLE)
        running = asyncio.create_task(element.put(pieces_of(content, gate, PART), file_id=file_id, saga_id=saga_id))
        await eventually(lambda: is_taking(element))
        compensated = await element.ask("DELETE", f"/api/files/{file_id}", headers={SAGA_HEADER: saga_id})
        assert compensated.status == 204
        gate.set()
        assert (await running).status == 409
        await check_element(element, own_neighbours, {file_id: [ABSENT]})
        assert (await element.put(content, file_id=file_id, saga_id=saga_id)).status == 409
        await check_element(element, own_neighbours, {file_id: [ABSENT]})


async def is_taking(element: RunningElement) -> bool:
    return any((element.root / "tmp").iterdir())


async def test_a_kill_of_the_whole_element_under_load_loses_nothing(own_neighbours: Neighbours, tmp_path: Path) -> None:
    allowed: dict[str, list[State]] = {}

    async def load(element: RunningElement) -> None:
        while True:
            content = os.urandom(300 if len(allowed) % 4 else PART)
            file_id = str(uuid7())
            allowed[file_id] = [ABSENT, state_of(content, 1)]
            answer = await element.put(content, file_id=file_id)
            allowed[file_id] = [stored(answer, content)[1]]

    async with running_element(own_neighbours, tmp_path / "se") as element:
        loads = [asyncio.create_task(load(element)) for _ in range(8)]
        await asyncio.sleep(1)
        element.process.kill()
        await asyncio.wait(loads)
    async with running_element(own_neighbours, tmp_path / "se") as element:
        found = await check_element(element, own_neighbours, allowed)
        assert found
