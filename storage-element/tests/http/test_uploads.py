"""An unfinished upload at a running element: over a kill -9, and after the element was closed."""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec

from artstore.contracts.storage import ACCOUNT_HEADER
from artstore.contracts.uploads import NewUpload

from ..running import Answer, Neighbours, RunningElement, running_element
from ..store.support import new_file

ACCOUNT = {ACCOUNT_HEADER: "0190-account"}


async def ask(element: RunningElement, method: str, path: str, content: bytes = b"", **headers: str) -> Answer:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await element.ask(method, f"/api/uploads{path}", data=content, headers={**ACCOUNT, **fields})


async def test_a_closed_element_keeps_an_upload_and_takes_no_more_of_it(
    own_neighbours: Neighbours, tmp_path: Path
) -> None:
    root, half = tmp_path / "root", bytes(100_000)
    order = msgspec.json.encode(NewUpload(new=new_file(), length=2 * len(half)))
    async with running_element(own_neighbours, root, STORAGE_MODE="rw") as element:
        made = await ask(element, "POST", "", order, content_type="application/json")
        assert made.status == 201, made.body
        path = f"/{made.json['upload_id']}"
        assert (await ask(element, "PATCH", path, half, upload_offset="0")).json["offset"] == len(half)
        element.stop(signal.SIGKILL)
    async with running_element(own_neighbours, root, STORAGE_MODE="ro") as element:
        assert (await element.ask("GET", f"/api/uploads{path}", headers=ACCOUNT)).json["offset"] == len(half)
        for answer in (
            await ask(element, "PATCH", path, half, upload_offset=str(len(half))),
            await ask(element, "POST", "", order, content_type="application/json"),
        ):
            assert (answer.status, answer.json["code"]) == (409, "mode_forbids")
        other = await element.ask("GET", f"/api/uploads{path}", headers={ACCOUNT_HEADER: "another"})
        assert other.status == 404
        assert (await element.ask("DELETE", f"/api/uploads{path}", headers=ACCOUNT)).status == 204
        assert list((root / "uploads").iterdir()) == []
