"""The last words of a start: where everything is, and a first file by curl."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from .fleet import ADMIN_OFFSET, ELEMENTS, INGESTER_OFFSET, QUERY_OFFSET, Site

BEARER = '-H "Authorization: Bearer $TOKEN"'


def welcome(site: Site) -> str:
    addresses = [
        ("admin", ADMIN_OFFSET),
        *((element.id, element.port_offset) for element in ELEMENTS),
        ("ingester", INGESTER_OFFSET),
        ("query", QUERY_OFFSET),
    ]
    lines = [
        "",
        "ArtStore is ready.",
        "",
        *(f"  {name:<12} {site.url(offset)}/docs" for name, offset in addresses),
        "",
        f"  credentials  {site.data.keys / 'admin-client.json'}",
        f"  logs         {site.data.logs}",
        "",
        "Store this project's README and get it back:",
        "",
        *first_file(site),
        "",
    ]
    return "\n".join(lines)


def first_file(site: Site) -> list[str]:
    """Three shell lines: a token, an upload that shows the record, a download compared with the original."""
    client = f"@{_near(site.data.keys / 'admin-client.json')}"
    readme = _near(site.root / "README.md")
    token = f"{site.url(ADMIN_OFFSET)}/api/auth/token -H 'Content-Type: application/json' -d {shlex.quote(client)}"
    upload = f"{site.url(INGESTER_OFFSET)}/api/files/upload {BEARER} -F {shlex.quote(f'file=@{readme}')}"
    download = f"{site.url(QUERY_OFFSET)}/api/files/$ID/content {BEARER}"
    return [
        f"TOKEN=$(curl -sS {token} | {_member('access_token')})",
        f"ID=$(curl -sS {upload} | tee /dev/stderr | {_member('file_id')})",
        f"curl -sS {download} | cmp - {shlex.quote(readme)} && echo identical",
    ]


def _member(name: str) -> str:
    """A filter for one text member of a JSON object: jq may not be there."""
    return f"""sed -E 's/.*"{name}": ?"([^"]*)".*/\\1/'"""


def _near(path: Path) -> str:
    """The shorter of the absolute path and the one from here."""
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near
