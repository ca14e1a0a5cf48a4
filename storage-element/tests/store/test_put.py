from __future__ import annotations

from pathlib import Path

import pytest

from .support import RememberingCatalog, check_settled, opened, put_bytes


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 5_000_000])
async def test_a_put_file_is_on_disk_and_in_the_catalog(tmp_path: Path, size: int) -> None:
    catalog = RememberingCatalog()
    content = bytes(i * 7 % 251 for i in range(min(size, 1 << 16))) * (size // (1 << 16) + 1)
    content = content[:size]
    async with opened(tmp_path, catalog) as store:
        result = await put_bytes(store, content)
        assert check_settled(tmp_path, store, catalog) == {result.attributes.file_id: content}
        assert store.usage.files == 1
        assert store.usage.bytes_used == size
    async with opened(tmp_path, catalog) as store:
        assert check_settled(tmp_path, store, catalog) == {result.attributes.file_id: content}
        assert store.usage.bytes_used == size
