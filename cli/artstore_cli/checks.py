"""The checks that `test` runs: static checks, then the tests of every part, each in a separate process.

All modules name their package `app`, so no two of them can share an interpreter.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from artstore.local.postgres import WHEELS

MODULES = ("admin-module", "storage-element", "ingester-module", "query-module")
CLIENT = "clients/python"
"""The Python client, which the command uses."""
PACKAGES = {**dict.fromkeys(MODULES, "app"), "shared": "artstore", "cli": "artstore_cli", CLIENT: "artstore_client"}
TOGETHER = "tests"
"""Tests that need more than one module. Each subfolder is a check of its own."""
STORE_FAULTS = "tests/faults"
"""Fault tests of the storage element. They sample the faults; with ARTSTORE_FAULTS=long they test all of them."""
FLEET_FAULTS = "tests/faults"
"""Long tests with whole fleets: rotations, revocations, outages. They run only when named; CI runs them last."""
CHAOS = "chaos"
CHAOS_TEST = "faults/test_chaos.py"
"""Short by default; `test chaos --long --seed N --minutes M` sets its length."""
LONGEST = frozenset(
    {
        "faults",
        "tests of storage-element",
        "tests of admin-module",
        "tests of shared",
        "tests of cli",
        "tests/contract",
        "tests/e2e",
    }
)
"""Started first, so that the run does not end with one long check."""
OLDER_POSTGRES = "17"
OLDER = f"postgres{OLDER_POSTGRES}"
"""The version that compose runs; tests with SQL also run on it."""
ON_OLDER_POSTGRES = {
    "admin-module": ("tests/sagas", "tests/elements", "tests/audit/test_archives.py", "tests/test_schema.py"),
    "query-module": ("tests/search",),
    "shared": ("tests/catalog", "tests/test_outbox.py"),
}
SOURCES = (*PACKAGES, "keys", TOGETHER, "conftest.py")


@dataclass(frozen=True, slots=True)
class Check:
    """A process that must end with status 0.

    `counted`: it is pytest, and its tests are counted. `hints`: its output is printed although it passes.
    """

    name: str
    part: str
    arguments: Sequence[str]
    folder: Path
    python_path: Sequence[Path]
    counted: bool = False
    hints: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


def plan(root: Path, wanted: Sequence[str]) -> list[Check]:
    """The checks of the named parts, in start order. Without names: all checks except FLEET_FAULTS."""
    every = sorted(
        [*_static(root), *_own_tests(root), *_on_older_postgres(root), *_tests_together(root)],
        key=lambda check: check.name not in LONGEST,
    )
    if not wanted:
        return [check for check in every if check.part != FLEET_FAULTS]
    return [check for check in every if check.part in wanted or check.name in wanted]


def _static(root: Path) -> list[Check]:
    sources = [name for name in SOURCES if (root / name).exists()]
    ruff = str(Path(sys.executable).parent / "ruff")
    path = [root / "cli", root / CLIENT, root / "shared"]
    return [
        Check("mypy", "static", [sys.executable, "-m", "artstore_cli.types"], root, path),
        Check("ruff check", "static", [ruff, "check", "--quiet", *sources], root, []),
        Check("ruff format", "static", [ruff, "format", "--check", "--quiet", *sources], root, []),
        Check("import cycles", "static", [sys.executable, "-m", "artstore_cli.imports"], root, path),
        Check("prose", "static", [sys.executable, "-m", "artstore_cli.prose"], root, path, hints=True),
    ]


def _own_tests(root: Path) -> list[Check]:
    return [
        *(
            _tests_of(root, f"tests of {part}", part, *_pytest("tests", f"--ignore={STORE_FAULTS}"))
            for part in PACKAGES
        ),
        _tests_of(root, "faults", "storage-element", *_pytest(STORE_FAULTS), "--capture=no"),
    ]


def _on_older_postgres(root: Path) -> list[Check]:
    """Empty if the wheel has no build for this machine."""
    if importlib.util.find_spec(WHEELS[OLDER_POSTGRES][0]) is None:
        return []
    return [
        Check(
            f"{part} on PostgreSQL {OLDER_POSTGRES}",
            OLDER,
            _pytest(*folders),
            root / part,
            [root / part, root / "shared"],
            counted=True,
            variables={"ARTSTORE_TEST_POSTGRES": OLDER_POSTGRES},
        )
        for part, folders in ON_OLDER_POSTGRES.items()
    ]


def _tests_of(root: Path, name: str, part: str, *arguments: str) -> Check:
    path = [root / part, root / "shared"]
    if part in ("cli", CLIENT):  # they are tested against a whole system
        path += [root / TOGETHER, root / CLIENT, root / "cli"]
    return Check(name, part, arguments, root / part, path, counted=True)


def _tests_together(root: Path) -> list[Check]:
    """One check per folder; in FLEET_FAULTS one per file or folder, because each starts its own fleet."""
    folder = root / TOGETHER
    fleets = root / FLEET_FAULTS
    names = {path.parent.relative_to(folder).parts[0] for path in folder.rglob("test_*.py") if path.parent != folder}
    found = {f"{TOGETHER}/{name}": name for name in sorted(names - {fleets.name, "bench"})}
    of_fleets = {fleets / path.relative_to(fleets).parts[0] for path in fleets.rglob("test_*.py")} - {
        folder / CHAOS_TEST
    }
    found |= {CHAOS: CHAOS_TEST} if (folder / CHAOS_TEST).exists() else {}
    found |= {f"{FLEET_FAULTS}/{path.stem}": str(path.relative_to(folder)) for path in sorted(of_fleets)}
    path = [folder, root / "shared", root / "cli", root / CLIENT]
    return [
        Check(
            name,
            FLEET_FAULTS if name.startswith(f"{FLEET_FAULTS}/") else TOGETHER,
            [*_pytest(given), "--capture=no"],
            folder,
            path,
            counted=True,
        )
        for name, given in found.items()
    ]


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


def environment(check: Check, root: Path) -> dict[str, str]:
    path = os.pathsep.join(str(folder) for folder in check.python_path)
    return {
        **os.environ,
        **check.variables,
        "PYTHONPATH": path,
        "MYPYPATH": str(root / "shared"),
        "PYTHONUNBUFFERED": "1",
    }
