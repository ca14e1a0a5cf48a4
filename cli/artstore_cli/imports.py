"""`python -m artstore_cli.imports`: fails if the modules of a package import each other in a cycle, types included."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from .checks import PACKAGES


def imports(package: Path) -> dict[str, set[str]]:
    """By module, the modules of the same package that it imports."""
    files = {".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in package.rglob("*.py")}
    names = {name.removesuffix(".__init__"): path for name, path in files.items()}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        parents = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[name] |= {one.name for one in node.names} & names.keys()
            elif isinstance(node, ast.ImportFrom):
                base = parents[: len(parents) - node.level + 1] if node.level else []
                source = ".".join([*base, *([node.module] if node.module else [])])
                inner = {f"{source}.{one.name}" for one in node.names} & names.keys()
                found[name] |= inner or ({source} & names.keys())
        found[name].discard(name)
    return found


def find_cycle(package: Path) -> list[str]:
    """The modules of a cycle, the first one repeated at the end. Empty if there is none."""
    try:
        TopologicalSorter(imports(package)).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    cycles = {part: find_cycle(root / part / package) for part, package in PACKAGES.items()}
    for part, cycle in cycles.items():
        if cycle:
            print(f"{part}: import cycle: {' <- '.join(cycle)}")
    return 1 if any(cycles.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
