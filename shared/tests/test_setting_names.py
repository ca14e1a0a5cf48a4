"""The one list of names against the settings classes of all services, each asked in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from artstore.setting_names import SETTING_NAMES

ROOT = Path(__file__).resolve().parents[2]
MODULES = ["admin-module", "storage-element", "ingester-module", "query-module"]
SHOW = (
    "import json; from app.core.config import Settings; print(json.dumps([n.upper() for n in Settings.model_fields]))"
)


def names_of(module: str) -> set[str]:
    shown = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT / module,
        env={"PYTHONPATH": str(ROOT / "shared")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(shown.stdout))


def test_the_list_of_names_is_what_the_services_have() -> None:
    assert set().union(*(names_of(module) for module in MODULES)) == SETTING_NAMES
