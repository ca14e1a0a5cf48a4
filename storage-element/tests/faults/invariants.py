"""The invariants of an element's root after any fault, once it was opened again and has settled. Stated only here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.store.attributes import find_in
from app.store.identity import find_identity
from app.store.paths import ATTRIBUTES_SUFFIX, Paths
from artstore.contracts.elements import Mode
from artstore.modes import ROW

from .journal import State


def check_invariants(
    root: Path,
    *,
    allowed: Mapping[str, Sequence[State]],
    catalog: Mapping[str, int] | None,
    open_intents: int,
    mode_before: Mode | None = None,
    found: dict[str, State] | None = None,
) -> dict[str, State]:
    """`allowed`: per file the states it may be in. `catalog`: revisions by file id; None where the disk itself has lost
    something and only a rebuild can make them equal again. `found`: what is there, where the files are not below the
    root. Returns what is there."""
    found = states_on_disk(root) if found is None else found
    for file_id, states in allowed.items():
        assert found.get(file_id) in states, f"{file_id} is {found.get(file_id)}, which is none of {states}"
    assert set(found) <= set(allowed), f"nobody put {set(found) - set(allowed)}"
    assert list((root / "tmp").iterdir()) == [], "temps are left"
    assert open_intents == 0, f"{open_intents} intents are left open"
    revisions = {file_id: state[1] for file_id, state in found.items() if state is not None}
    assert catalog is None or dict(catalog) == revisions, f"the catalog has {catalog}, the disk {revisions}"
    if mode_before is not None:
        identity = find_identity(Paths(str(root)))
        assert identity is not None, "element.json is gone"
        assert ROW.index(identity.mode) >= ROW.index(mode_before), f"the mode went back to {identity.mode}"
    return found


def states_on_disk(root: Path) -> dict[str, State]:
    """Every file that can be seen. Each attr.json parses, is of the file whose name it bears, and matches the bytes; no
    bytes are there without it."""
    found: dict[str, State] = {}
    data: set[str] = set()
    for folder in (root / "files").glob("*/*"):
        for path in folder.iterdir():
            if not path.name.endswith(ATTRIBUTES_SUFFIX):
                data.add(path.name)
                continue
            file_id = path.name.removesuffix(ATTRIBUTES_SUFFIX)
            attributes = find_in(path.read_bytes(), file_id)
            assert attributes is not None, f"{path.name} cannot be read: {path.read_bytes()[:200]!r}"
            content = path.with_name(file_id).read_bytes()
            sha256 = hashlib.sha256(content).hexdigest()
            assert len(content) == attributes.size_bytes, f"{file_id} has {len(content)} bytes"
            assert attributes.checksum == f"sha256:{sha256}", f"{file_id} has other bytes than its attributes say"
            found[file_id] = (sha256, attributes.revision)
    assert data == set(found), f"bytes without attributes: {data - set(found)}"
    return found
