"""No module imports itself in a circle, not even for its types: what depends on what can be read from the imports."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["shared/artstore", "cli/artstore_cli", *(f"{one}/app" for one in (
    "admin-module", "storage-element", "ingester-module", "query-module"))]  # fmt: skip


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


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_no_import_cycle(package: str) -> None:
    assert list(TopologicalSorter(imports(ROOT / package)).static_order())
