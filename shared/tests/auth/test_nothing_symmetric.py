"""Tokens are signed with private keys only admin has. No secret that verifies could also sign, anywhere in the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
KEYED_HASHES = {
    "admin-module/app/identity/secrets.py",
    "admin-module/app/database_roles.py",
    "storage-element/app/store/backends/s3_uploads.py",
}
"""HMAC over client secrets, which signs nothing; the verifiers of PostgreSQL's logins (SCRAM, RFC 5802); and what S3's own
protocol asks of its clients (Signature Version 4)."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("shared/artstore", "cli/artstore_cli", "keys", *(path.name + "/app" for path in ROOT.glob("*-*"))):
        for path in (ROOT / folder).rglob("*.py"):
            name = str(path.relative_to(ROOT))
            if "/testing/" not in name:
                yield name, ast.parse(path.read_text())


def test_no_source_names_a_symmetric_algorithm() -> None:
    found = [
        (name, node.value)
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.upper()[:3] in ("HS2", "HS3", "HS5")
    ]
    assert found == []


def test_tokens_are_decoded_in_one_place_with_the_algorithm_pinned() -> None:
    calls = [
        (name, ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords})
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("jwt.decode", "jwt.encode", "jwt.PyJWT")
    ]
    assert [(name, called) for name, called, _ in calls] == [("shared/artstore/auth/tokens.py", "jwt.decode")]
    assert calls[0][2]["algorithms"] == "[ALGORITHM]"


def test_a_keyed_hash_is_used_for_client_secrets_logins_and_s3_only() -> None:
    users = {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("hmac.digest", "hmac.new", "hmac.HMAC")
    }
    assert users <= KEYED_HASHES
