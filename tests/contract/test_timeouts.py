"""docs/operations/timeouts.md states timeouts: they are the defaults of the settings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from support.system import ROOT

ROW = re.compile(r"^\| `([A-Z0-9_]+_S)`(?: \((\w+)\))? \| ([0-9.]+) \|", re.MULTILINE)
MODULES = {
    "admin": "admin-module",
    "element": "storage-element",
    "ingester": "ingester-module",
    "query": "query-module",
}
SHOW = """import json; from app.core.config import Settings
print(json.dumps({name.upper(): field.default for name, field in Settings.model_fields.items()}, default=str))"""


@pytest.fixture(scope="module")
def defaults() -> dict[str, dict[str, object]]:
    def of(folder: str) -> dict[str, object]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "shared")}
        shown = subprocess.check_output([sys.executable, "-c", SHOW], cwd=ROOT / folder, env=environment, timeout=60)
        return dict(json.loads(shown))

    return {module: of(folder) for module, folder in MODULES.items()}


def test_the_timeouts_in_the_documents_are_those_in_force(defaults: dict[str, dict[str, object]]) -> None:
    rows = ROW.findall((ROOT / "docs" / "operations" / "timeouts.md").read_text())
    assert len(rows) >= 12
    for name, module, stated in rows:
        having = [module] if module else [each for each, known in defaults.items() if name in known]
        assert having, f"no service knows {name}"
        assert {defaults[each][name] for each in having} == {float(stated)}, name
