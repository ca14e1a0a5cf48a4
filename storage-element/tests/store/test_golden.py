"""attr.json files of schema version 1, as they were written when it was new. They stay readable for ever: never change one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app.store.get import load_attributes
from app.store.update import patch
from artstore.contracts.files import Changes, decode, encode

from .support import opened

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.attr.json"))
BY_HAND = "edited_by_hand.attr.json"


def test_all_golden_files_exist() -> None:
    assert len(GOLDEN) == 6


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_golden_file_is_read_without_loss(path: Path) -> None:
    written = path.read_bytes()
    attributes = decode(written)
    assert json.loads(encode(attributes)) == json.loads(written)
    if path.name != BY_HAND:
        assert encode(attributes) == written


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
async def test_an_update_keeps_unknown_fields(tmp_path: Path, path: Path) -> None:
    before = json.loads(path.read_bytes())
    file_id = before["file_id"]
    folder = tmp_path / "files" / file_id[-4:-2] / file_id[-2:]
    folder.mkdir(parents=True)
    (folder / file_id).write_bytes(bytes(before["size_bytes"]))
    shutil.copy(path, folder / f"{file_id}.attr.json")
    async with opened(tmp_path) as store:
        await patch(store, file_id, Changes(tags=["later"]), before["revision"])
        _, encoded = await load_attributes(store, file_id)
    after = json.loads(encoded)
    assert after.pop("updated_at") != before.pop("updated_at")
    assert after == {**before, "tags": ["later"], "revision": before["revision"] + 1}
