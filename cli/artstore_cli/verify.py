"""`verify`: checks the folder of an element, or a copy of it, offline: attributes, hashes, incomplete files, leftovers.

Never writes. Damage means that content or attributes of a file are lost. Temporary files, quarantined files, strays (names
that are not a file of the element in its proper folder) and attributes that PostgreSQL would reject are remarks.
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

from artstore.contracts.files import Attributes, decode, is_id, unfit_for_catalog

from .errors import CommandError

SUFFIX = ".attr.json"
PIECE_BYTES = 1 << 20
MAX_READ_BYTES = 1 << 16
"""Read from an attr.json; more than its largest size."""
BATCH_FILES = 256
"""Files handed to the threads at a time. Hashing releases the GIL."""
_FOLDER = re.compile("[0-9a-f]{2}")
REMARKS = frozenset({"temp", "quarantined", "stray", "unfit_for_catalog"})


@dataclass(frozen=True, slots=True)
class FolderFinding:
    """`path` is relative to the folder and printable."""

    problem: str
    path: str
    detail: str = ""

    @property
    def is_damage(self) -> bool:
        return self.problem not in REMARKS


@dataclass(slots=True)
class FolderReport:
    folder: str
    element_id: str | None = None
    mode: str | None = None
    files: int = 0
    bytes_read: int = 0
    findings: list[FolderFinding] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not any(finding.is_damage for finding in self.findings)

    def as_json(self) -> bytes:
        fields: dict[str, Any] = {**msgspec.to_builtins(self), "sound": self.sound}
        fields["findings"] = [{**msgspec.to_builtins(one), "damage": one.is_damage} for one in self.findings]
        return msgspec.json.format(msgspec.json.encode(fields), indent=2)


def verify(folder: Path) -> FolderReport:
    """Raises CommandError when `folder` is not the folder of an element."""
    if not (folder / "files").is_dir():
        raise CommandError(f"{folder} is not the folder of an element: it has no folder files/")
    report = FolderReport(_text(str(folder)))
    _read_identity(folder, report)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        pairs = _pairs(folder, report)
        while batch := list(islice(pairs, BATCH_FILES)):
            for size_bytes, finding in threads.map(lambda name: _check(folder, name), batch):
                report.files += 1
                report.bytes_read += size_bytes
                if finding is not None:
                    report.findings.append(finding)
    for problem, name in (("temp", "tmp"), ("quarantined", "quarantine")):
        if (folder / name).is_dir():
            report.findings += [
                FolderFinding(problem, f"{name}/{_text(found)}") for found in _names(folder, name, report)
            ]
    return report


def lines_of(report: FolderReport) -> Iterator[str]:
    """The report as text: each finding, then the sums."""
    for finding in report.findings:
        yield f"{finding.problem:<20} {finding.path}  {finding.detail}".rstrip()
    of = f"{report.element_id} ({report.mode})" if report.element_id else "an element without element.json"
    counts = Counter(finding.problem for finding in report.findings)
    said = ", ".join(f"{number} {problem}" for problem, number in sorted(counts.items())) or "nothing found"
    yield f"{report.folder}: {of}, {report.files} files, {report.bytes_read} bytes read: {said}"
    yield "sound" if report.sound else "DAMAGED"


def _read_identity(folder: Path, report: FolderReport) -> None:
    path = folder / "element.json"
    if not path.exists():
        return  # a backup of files/ alone is complete without it
    try:
        identity = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        report.element_id, report.mode = str(identity["element_id"]), str(identity["mode"])
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        report.findings.append(FolderFinding("element_damaged", "element.json", str(error)))


def _pairs(folder: Path, report: FolderReport) -> Iterator[str]:
    """Names of the complete files, as <aa>/<bb>/<id>. Reports incomplete files and strays."""
    for first in _folders(folder, "files", report):
        for second in _folders(folder, f"files/{first}", report):
            below = f"{first}/{second}"
            names = set(_names(folder, f"files/{below}", report))
            for name in sorted(names):
                file_id = name.removesuffix(SUFFIX)
                if not is_id(file_id) or file_id[-4:] != first + second:
                    report.findings.append(FolderFinding("stray", _text(f"files/{below}/{name}"), _why_stray(file_id)))
                elif name != file_id:
                    if file_id not in names:
                        report.findings.append(FolderFinding("data_missing", f"files/{below}/{name}"))
                elif name + SUFFIX in names:
                    yield f"{below}/{name}"
                else:
                    report.findings.append(
                        FolderFinding("attributes_missing", f"files/{below}/{name}", "data without its attr.json")
                    )


def _why_stray(file_id: str) -> str:
    return "a file id in the wrong folder" if is_id(file_id) else ""


def _folders(folder: Path, below: str, report: FolderReport) -> Iterator[str]:
    for name in _names(folder, below, report):
        try:
            ours = _FOLDER.fullmatch(name) and stat.S_ISDIR(os.stat(folder / below / name).st_mode)
        except FileNotFoundError:
            ours = False
        except OSError as error:
            report.findings.append(FolderFinding("unreadable", _text(f"{below}/{name}"), str(error)))
            continue
        if ours:
            yield name
        else:
            report.findings.append(FolderFinding("stray", _text(f"{below}/{name}")))


def _names(folder: Path, below: str, report: FolderReport) -> list[str]:
    """Sorted names. A folder that cannot be listed becomes a finding, and the check continues."""
    try:
        return sorted(os.listdir(folder / below))
    except OSError as error:
        report.findings.append(FolderFinding("unreadable", _text(below), str(error)))
        return []


def _text(name: str) -> str:
    r"""Shows bytes that are not UTF-8 as \xff."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _check(folder: Path, name: str) -> tuple[int, FolderFinding | None]:
    """The bytes read of one file, and a finding if it is damaged."""
    file_id = name.rpartition("/")[2]
    path = f"files/{name}"
    try:
        with _open(folder / f"{path}{SUFFIX}") as file:
            attributes = decode(file.read(MAX_READ_BYTES))
    except OSError as error:
        return 0, FolderFinding("unreadable", path + SUFFIX, str(error))
    except (ValueError, msgspec.MsgspecError) as error:
        return 0, FolderFinding("attributes_damaged", path + SUFFIX, str(error))
    if attributes.file_id != file_id:
        return 0, FolderFinding("misplaced", path, f"the attributes belong to {attributes.file_id}")
    try:
        size_bytes, finding = _check_bytes(folder, path, attributes)
    except OSError as error:
        return 0, FolderFinding("unreadable", path, str(error))
    if finding is None and (reason := unfit_for_catalog(attributes)) is not None:
        finding = FolderFinding("unfit_for_catalog", path + SUFFIX, reason)
    return size_bytes, finding


def _open(path: Path) -> BinaryIO:
    """Refuses pipes and devices, which would block the check."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return cast(BinaryIO, os.fdopen(fd, "rb", buffering=0))


def _check_bytes(folder: Path, path: str, attributes: Attributes) -> tuple[int, FolderFinding | None]:
    sha256, size_bytes = hashlib.sha256(), 0
    with _open(folder / path) as file:
        while piece := file.read(PIECE_BYTES):
            sha256.update(piece)
            size_bytes += len(piece)
    if size_bytes != attributes.size_bytes:
        return size_bytes, FolderFinding("size_differs", path, f"{size_bytes} bytes, stated {attributes.size_bytes}")
    if f"sha256:{sha256.hexdigest()}" != attributes.checksum:
        return size_bytes, FolderFinding("hash_differs", path, f"sha256:{sha256.hexdigest()}")
    return size_bytes, None
