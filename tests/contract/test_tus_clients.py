"""Official tus clients upload whole files over a connection that is cut 50 times. `python -m tusdrill` is the long version."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.system import System
from tusdrill import CLIENTS, ClientMissing, new_drill, run

SIZE_BYTES, CUTS = 24 << 20, 50


@pytest.mark.parametrize("client", CLIENTS)
def test_an_upload_with_50_cuts_arrives_whole(system: System, tmp_path: Path, client: str) -> None:
    try:
        print(run(new_drill(system, tmp_path, SIZE_BYTES, CUTS, seed=7), client))
    except ClientMissing as missing:
        pytest.skip(str(missing))
