"""Habits that no running test can show: secrets compared in constant time, and no key that both signs and verifies."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from support.system import ROOT

SECRET = re.compile(r"(^|_)(secret|secrets|password|signature|hmac|mac|client_secret|secret_hash|hash_key)$")
SYMMETRIC = re.compile(r"\bHS(256|384|512)\b|symmetric_key|\"none\".*alg")
FOLDERS = ("admin-module/app", "storage-element/app", "ingester-module/app", "query-module/app", "shared/artstore")


def sources() -> Iterator[tuple[Path, str]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "testing" not in path.parts:
                yield path, path.read_text()


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def test_no_secret_is_compared_with_equals() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, text in sources()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq | ast.In) for operator in node.ops)
        and any(SECRET.search(name_of(side)) for side in (node.left, *node.comparators))
    ]
    assert not found


def test_tokens_are_signed_with_nothing_symmetric() -> None:
    found = [str(path.relative_to(ROOT)) for path, text in sources() if SYMMETRIC.search(text)]
    assert not found
    pinned = [path.name for path, text in sources() if 'ALGORITHM = "RS256"' in text]
    assert pinned == ["tokens.py"]
