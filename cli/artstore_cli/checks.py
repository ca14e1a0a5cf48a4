"""What `test` runs, as data: static checks of every part, then every part's tests, each in a process of its own.

The modules' packages are all called `app`, so no two of them can share an interpreter.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from artstore.postgres_wheel import WHEELS

MODULES = ("admin-module", "storage-element", "ingester-module", "query-module")
PACKAGES = {**dict.fromkeys(MODULES, "app"), "shared": "artstore", "cli": "artstore_cli"}
TOGETHER = "tests"
"""The folder of tests that need more than one module; each folder in it with tests is run by itself."""
PROOFS = "tests/faults"
"""Of the storage element. Short by itself; ARTSTORE_FAULTS=long tries all that the short form samples."""
FLEETS = "tests/faults"
"""Minutes of rotations, revocations, outages and repeats of whole fleets, by name only: CI runs them after the rest."""
CHAOS = "chaos"
CHAOS_TEST = "faults/test_chaos.py"
"""Short by itself; `test chaos --long --seed N --minutes M` goes on for as long as is wanted."""
LONGEST = frozenset({"faults", "tests of storage-element", "tests of admin-module", "tests/contract"})
"""Begun first, so that none of them is what everything waits for at the end."""
OLDER_POSTGRES = "17"
OLDER = f"postgres{OLDER_POSTGRES}"
"""The version of compose, for the tests that run the statements of sagas, registry, roles, audit log, catalog and search."""
ON_OLDER_POSTGRES = {
    "admin-module": ("tests/sagas", "tests/elements", "tests/audit/test_archives.py", "tests/test_schema.py"),
    "query-module": ("tests/search",),
    "shared": ("tests/catalog", "tests/test_outbox.py"),
}
SOURCES = (*PACKAGES, "keys", TOGETHER)


@dataclass(frozen=True, slots=True)
class Check:
    """A process that has to end with status 0. `counted` ones are pytest and count their tests."""

    name: str
    part: str
    arguments: Sequence[str]
    folder: Path
    python_path: Sequence[Path]
    counted: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


def plan(root: Path, wanted: Sequence[str]) -> list[Check]:
    """All checks of the wanted parts, in the order to start them; when none is named all but those of FLEETS."""
    every = sorted(
        [*_static(root), *_own_tests(root), *_on_older_postgres(root), *_tests_together(root)],
        key=lambda check: check.name not in LONGEST,
    )
    if not wanted:
        return [check for check in every if check.part != FLEETS]
    return [check for check in every if check.part in wanted or check.name in wanted]


def _static(root: Path) -> list[Check]:
    sources = [name for name in SOURCES if (root / name).is_dir()]
    ruff = str(Path(sys.executable).parent / "ruff")
    return [
        Check("ruff check", "static", [ruff, "check", "--quiet", *sources], root, []),
        Check("ruff format", "static", [ruff, "format", "--check", "--quiet", *sources], root, []),
        Check("mypy", "static", [sys.executable, "-m", "artstore_cli.types"], root, [root / "cli", root / "shared"]),
    ]


def _own_tests(root: Path) -> list[Check]:
    return [
        *(_tests_of(root, f"tests of {part}", part, *_pytest("tests", f"--ignore={PROOFS}")) for part in PACKAGES),
        _tests_of(root, "faults", "storage-element", *_pytest(PROOFS), "--capture=no"),
    ]


def _on_older_postgres(root: Path) -> list[Check]:
    """Empty where the wheel has no build for this machine."""
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
    return Check(name, part, arguments, root / part, [root / part, root / "shared"], counted=True)


def _tests_together(root: Path) -> list[Check]:
    """Each folder by itself, and of FLEETS each file or folder, since each has a fleet of its own."""
    folder = root / TOGETHER
    fleets = root / FLEETS
    names = {path.parent.relative_to(folder).parts[0] for path in folder.rglob("test_*.py") if path.parent != folder}
    found = {f"{TOGETHER}/{name}": name for name in sorted(names - {fleets.name, "bench"})}
    of_fleets = {fleets / path.relative_to(fleets).parts[0] for path in fleets.rglob("test_*.py")} - {
        folder / CHAOS_TEST
    }
    found |= {CHAOS: CHAOS_TEST} if (folder / CHAOS_TEST).exists() else {}
    found |= {f"{FLEETS}/{path.stem}": str(path.relative_to(folder)) for path in sorted(of_fleets)}
    path = [folder, root / "shared", root / "cli"]
    return [
        Check(
            name,
            FLEETS if name.startswith(f"{FLEETS}/") else TOGETHER,
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
