"""`verify`: an element's folder, or a plain copy of one, checked with nothing running: schema, hashes, halves, leftovers.

Reads and never writes. What counts as damage is what a reader would miss; temps and what lies in quarantine are remarks.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from artstore.contracts.files import Attributes, decode

from .refusal import Refused

SUFFIX = ".attr.json"
PIECE_BYTES = 1 << 20
AT_ONCE = 256
"""Files handed to the threads at a time: hashing lets them run side by side."""
REMARKS = frozenset({"temp", "quarantined", "stray"})


@dataclass(frozen=True, slots=True)
class Finding:
    """`path` below the folder."""

    problem: str
    path: str
    detail: str = ""

    @property
    def is_damage(self) -> bool:
        return self.problem not in REMARKS


@dataclass(slots=True)
class Verdict:
    folder: str
    element_id: str | None = None
    mode: str | None = None
    files: int = 0
    bytes_read: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not any(finding.is_damage for finding in self.findings)

    def as_json(self) -> bytes:
        fields: dict[str, Any] = {**msgspec.to_builtins(self), "sound": self.sound}
        fields["findings"] = [{**msgspec.to_builtins(one), "damage": one.is_damage} for one in self.findings]
        return msgspec.json.format(msgspec.json.encode(fields), indent=2)


def verify(folder: Path) -> Verdict:
    """Raises Refused when `folder` is not an element's."""
    if not (folder / "files").is_dir():
        raise Refused(f"{folder} holds no element: there is no folder files/ in it")
    verdict = Verdict(str(folder))
    _read_identity(folder, verdict)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        pairs = _pairs(folder, verdict)
        while batch := list(islice(pairs, AT_ONCE)):
            for size_bytes, finding in threads.map(lambda name: _check(folder, name), batch):
                verdict.files += 1
                verdict.bytes_read += size_bytes
                if finding is not None:
                    verdict.findings.append(finding)
    for problem, name in (("temp", "tmp"), ("quarantined", "quarantine")):
        found = sorted((folder / name).iterdir()) if (folder / name).is_dir() else []
        verdict.findings += [Finding(problem, str(path.relative_to(folder))) for path in found]
    return verdict


def lines_of(verdict: Verdict) -> Iterator[str]:
    """For a person: each finding, then the sums."""
    for finding in verdict.findings:
        yield f"{finding.problem:<20} {finding.path}  {finding.detail}".rstrip()
    of = f"{verdict.element_id} ({verdict.mode})" if verdict.element_id else "an element without element.json"
    counts = Counter(finding.problem for finding in verdict.findings)
    said = ", ".join(f"{number} {problem}" for problem, number in sorted(counts.items())) or "nothing found"
    yield f"{verdict.folder}: {of}, {verdict.files} files, {verdict.bytes_read} bytes read: {said}"
    yield "sound" if verdict.sound else "DAMAGED"


def _read_identity(folder: Path, verdict: Verdict) -> None:
    path = folder / "element.json"
    if not path.exists():
        return  # a backup of files/ alone is whole without it
    try:
        identity = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        verdict.element_id, verdict.mode = str(identity["element_id"]), str(identity["mode"])
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        verdict.findings.append(Finding("element_damaged", "element.json", str(error)))


def _pairs(folder: Path, verdict: Verdict) -> Iterator[str]:
    """Names of the files that have both halves, as <aa>/<bb>/<id>; halves and strays go to the findings."""
    for first in _folders(folder / "files", verdict, folder):
        for second in _folders(first, verdict, folder):
            names = {entry.name for entry in os.scandir(second)}
            below = f"{first.name}/{second.name}"
            for name in sorted(names):
                path = f"files/{below}/{name}"
                if name.endswith(SUFFIX):
                    if name.removesuffix(SUFFIX) not in names:
                        verdict.findings.append(Finding("data_missing", path))
                elif name + SUFFIX in names:
                    yield f"{below}/{name}"
                else:
                    verdict.findings.append(Finding("attributes_missing", path, "data without its attr.json"))


def _folders(folder: Path, verdict: Verdict, root: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield path
        else:
            verdict.findings.append(Finding("stray", str(path.relative_to(root))))


def _check(folder: Path, name: str) -> tuple[int, Finding | None]:
    """Bytes read of one file, and what is wrong with it, if anything."""
    first, second, file_id = name.split("/")
    path = f"files/{name}"
    try:
        attributes = decode((folder / f"{path}{SUFFIX}").read_bytes())
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        return 0, Finding("attributes_damaged", path + SUFFIX, str(error))
    if attributes.file_id != file_id or (file_id[-4:-2], file_id[-2:]) != (first, second):
        return 0, Finding("misplaced", path, f"the attributes are of {attributes.file_id}")
    try:
        return _check_bytes(folder, path, attributes)
    except OSError as error:
        return 0, Finding("unreadable", path, str(error))


def _check_bytes(folder: Path, path: str, attributes: Attributes) -> tuple[int, Finding | None]:
    sha256, size_bytes = hashlib.sha256(), 0
    with (folder / path).open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            sha256.update(piece)
            size_bytes += len(piece)
    if size_bytes != attributes.size_bytes:
        return size_bytes, Finding("size_differs", path, f"{size_bytes} bytes, stated {attributes.size_bytes}")
    if f"sha256:{sha256.hexdigest()}" != attributes.checksum:
        return size_bytes, Finding("hash_differs", path, f"sha256:{sha256.hexdigest()}")
    return size_bytes, None
