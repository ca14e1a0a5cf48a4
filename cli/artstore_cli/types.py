"""`python -m artstore_cli.types [PART…]`: runs mypy over all parts or the named ones, their tests included.

Each part has its own cache, because all modules name their package `app`. A new cache starts as a copy of the shared
library's, which holds most of the results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COMMON = "shared"
CLIENT = "clients/python"
TARGETS = {
    COMMON: ["artstore", "tests"],
    "admin-module": ["app", "tests"],
    "storage-element": ["app", "tests"],
    "ingester-module": ["app", "tests"],
    "query-module": ["app", "tests"],
    "cli": ["artstore_cli", "tests"],
    CLIENT: ["artstore_client", "tests"],
    "tests": ["."],
    "keys": ["generate.py", "../cli/install.py", "../conftest.py"],
}
MORE = {CLIENT: ["tests"], "cli": ["tests"]}
"""Folders of which its tests import something."""
MAX_RUNNING = 2


def check_types(root: Path, parts: Sequence[str]) -> int:
    """0 when every part passes. mypy's findings are printed to standard output."""
    caches = root / ".mypy_cache"
    named = [part for part in TARGETS if not parts or part in parts]
    done: list[subprocess.CompletedProcess[str]] = []
    if COMMON in named and not (caches / COMMON).exists():
        named.remove(COMMON)
        done.append(_check(root, COMMON))
    for part in named:
        if (caches / COMMON).exists() and not (caches / part).exists():
            shutil.copytree(caches / COMMON, caches / part)
    with ThreadPoolExecutor(MAX_RUNNING) as threads:
        done += threads.map(lambda part: _check(root, part), named)
    print("".join(one.stdout + one.stderr for one in done), end="")
    return 1 if any(one.returncode for one in done) else 0


def _check(root: Path, part: str) -> subprocess.CompletedProcess[str]:
    """Runs mypy in the part's folder. Each line of its output names the part."""
    options = [f"--config-file={root / 'pyproject.toml'}", f"--cache-dir={root / '.mypy_cache' / part}"]
    command = [sys.executable, "-m", "mypy", *options, *TARGETS[part]]
    path = os.pathsep.join(str(root / folder) for folder in (COMMON, "cli", CLIENT, *MORE.get(part, ())))
    environment = {**os.environ, "MYPYPATH": path}
    done = subprocess.run(command, cwd=root / part, env=environment, capture_output=True, text=True)
    done.stdout = "".join(f"{part}: {line}\n" for line in done.stdout.splitlines())
    return done


if __name__ == "__main__":
    raise SystemExit(check_types(Path(__file__).resolve().parents[2], sys.argv[1:]))
