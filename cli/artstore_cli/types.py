"""`python -m artstore_cli.types [PART…]`: runs mypy over all parts or the named ones.

Each part has its own cache, because all modules name their package `app`. A new cache starts as a copy of the shared
library's, which holds most of the results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COMMON = "shared"
TARGETS = {
    COMMON: ["-p", "artstore"],
    "admin-module": ["-p", "app"],
    "storage-element": ["-p", "app"],
    "ingester-module": ["-p", "app"],
    "query-module": ["-p", "app"],
    "cli": ["-p", "artstore_cli"],
    "keys": ["generate.py", "../cli/install.py"],
}


def check_types(root: Path, parts: Sequence[str]) -> int:
    """0 when every part passes. mypy prints to standard output."""
    caches = root / ".mypy_cache"
    failed = 0
    for part, targets in TARGETS.items():
        if parts and part not in parts:
            continue
        cache = caches / part
        if not cache.exists() and (caches / COMMON).exists():
            shutil.copytree(caches / COMMON, cache)
        print(f"mypy {part}", flush=True)
        arguments = [f"--config-file={root / 'pyproject.toml'}", f"--cache-dir={cache}", *targets]
        environment = {**os.environ, "MYPYPATH": str(root / COMMON)}
        done = subprocess.run([sys.executable, "-m", "mypy", *arguments], cwd=root / part, env=environment)
        failed += done.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(check_types(Path(__file__).resolve().parents[2], sys.argv[1:]))
