"""`verify`: an element's folder, or a plain copy of one, checked with nothing running: schema, hashes, halves, leftovers.

Reads and never writes. Damage is what a reader would miss. Temps, files in quarantine, strays (names that are no file of
ours in its own folder) and attributes that PostgreSQL would not take are remarks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from artstore.contracts.files import Attributes, canonical_id, decode, unfit_for_catalog

from .refusal import Refused

SUFFIX = ".attr.json"
PIECE_BYTES = 1 << 20
MAX_READ_BYTES = 1 << 16
"""Of an attr.json: more than it may have."""
AT_ONCE = 256
"""Files handed to the threads at a time: hashing lets them run side by side."""
_FOLDER = re.compile("[0-9a-f]{2}")
REMARKS = frozenset({"temp", "quarantined", "stray", "unfit_for_catalog"})


@dataclass(frozen=True, slots=True)
class Finding:
    """`path` below the folder, printable."""

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
        raise Refused(f"{folder} is not the folder of an element: it has no folder files/")
    verdict = Verdict(_text(str(folder)))
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
        if (folder / name).is_dir():
            verdict.findings += [Finding(problem, f"{name}/{_text(found)}") for found in _names(folder, name, verdict)]
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
    for first in _folders(folder, "files", verdict):
        for second in _folders(folder, f"files/{first}", verdict):
            below = f"{first}/{second}"
            names = set(_names(folder, f"files/{below}", verdict))
            for name in sorted(names):
                file_id = name.removesuffix(SUFFIX)
                if canonical_id(file_id) != file_id or file_id[-4:] != first + second:
                    verdict.findings.append(Finding("stray", _text(f"files/{below}/{name}"), _why_stray(file_id)))
                elif name != file_id:
                    if file_id not in names:
                        verdict.findings.append(Finding("data_missing", f"files/{below}/{name}"))
                elif name + SUFFIX in names:
                    yield f"{below}/{name}"
                else:
                    verdict.findings.append(
                        Finding("attributes_missing", f"files/{below}/{name}", "data without its attr.json")
                    )


def _why_stray(file_id: str) -> str:
    return "a file id in a folder that is not its own" if canonical_id(file_id) == file_id else ""


def _folders(folder: Path, below: str, verdict: Verdict) -> Iterator[str]:
    for name in _names(folder, below, verdict):
        try:
            ours = _FOLDER.fullmatch(name) and stat.S_ISDIR(os.stat(folder / below / name).st_mode)
        except FileNotFoundError:
            ours = False
        except OSError as error:
            verdict.findings.append(Finding("unreadable", _text(f"{below}/{name}"), str(error)))
            continue
        if ours:
            yield name
        else:
            verdict.findings.append(Finding("stray", _text(f"{below}/{name}")))


def _names(folder: Path, below: str, verdict: Verdict) -> list[str]:
    """In order. A folder that cannot be listed is a finding, and hides no other."""
    try:
        return sorted(os.listdir(folder / below))
    except OSError as error:
        verdict.findings.append(Finding("unreadable", _text(below), str(error)))
        return []


def _text(name: str) -> str:
    """Bytes that are no UTF-8 are shown as \\xff."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _check(folder: Path, name: str) -> tuple[int, Finding | None]:
    """Bytes read of one file, and what is wrong with it, if anything."""
    file_id = name.rpartition("/")[2]
    path = f"files/{name}"
    try:
        with _open(folder / f"{path}{SUFFIX}") as file:
            attributes = decode(file.read(MAX_READ_BYTES))
    except OSError as error:
        return 0, Finding("unreadable", path + SUFFIX, str(error))
    except (ValueError, msgspec.MsgspecError) as error:
        return 0, Finding("attributes_damaged", path + SUFFIX, str(error))
    if attributes.file_id != file_id:
        return 0, Finding("misplaced", path, f"the attributes are of {attributes.file_id}")
    try:
        size_bytes, finding = _check_bytes(folder, path, attributes)
    except OSError as error:
        return 0, Finding("unreadable", path, str(error))
    if finding is None and (reason := unfit_for_catalog(attributes)) is not None:
        finding = Finding("unfit_for_catalog", path + SUFFIX, reason)
    return size_bytes, finding


def _open(path: Path) -> BinaryIO:
    """A pipe under a file's name must not hold up the others."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return cast(BinaryIO, os.fdopen(fd, "rb", buffering=0))


def _check_bytes(folder: Path, path: str, attributes: Attributes) -> tuple[int, Finding | None]:
    sha256, size_bytes = hashlib.sha256(), 0
    with _open(folder / path) as file:
        while piece := file.read(PIECE_BYTES):
            sha256.update(piece)
            size_bytes += len(piece)
    if size_bytes != attributes.size_bytes:
        return size_bytes, Finding("size_differs", path, f"{size_bytes} bytes, stated {attributes.size_bytes}")
    if f"sha256:{sha256.hexdigest()}" != attributes.checksum:
        return size_bytes, Finding("hash_differs", path, f"sha256:{sha256.hexdigest()}")
    return size_bytes, None
