"""`backup`: one more backup of a system in a folder, while the system runs.

A backup is the folder `<UTC time>/` with `postgres.dump`, `elements/<id>/`, on request `keys.enc`, and `manifest.json`, which
is written last and removed first: a backup without it is incomplete, and is removed by the next one. PostgreSQL is dumped
before the files are copied, so the files are never older than the catalog: what the dump does not know is kept at a restore
(docs/decisions/0008-generations.md), while a row without its file is removed by the elements' check.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from artstore import __version__
from artstore.clock import rfc3339

from ..errors import CommandError, disk_error
from . import database, keys
from .element import IDENTITY, ElementCopy, copy_element
from .files import Files, LocalFiles
from .s3_files import BINDING, S3Access, S3Files, read_binding
from .system import BackedUpSystem

MANIFEST, DUMP, ELEMENTS, KEYS = "manifest.json", "postgres.dump", "elements", "keys.enc"
TIME_FORMAT = "%Y-%m-%dT%H-%M-%SZ"
NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")
LOCK = ".lock"
FORMAT_VERSION = 1


class Manifest(msgspec.Struct, kw_only=True):
    """The content of manifest.json."""

    format_version: int = FORMAT_VERSION
    artstore_version: str = __version__
    began_at: str
    ended_at: str
    dump_sha256: str
    dump_bytes: int
    elements: list[ElementCopy]
    has_keys: bool
    not_included: list[str]
    """Elements whose files are in S3 and were not to be copied, each with its address."""

    @property
    def damaged(self) -> int:
        return sum(len(element.damaged) for element in self.elements)


@dataclass(frozen=True, slots=True)
class Wanted:
    passphrase: bytes | None = None
    """Encrypts the keys; without it they are left out."""
    keep: int | None = None
    """Remove all complete backups but the last ones, unless this one found damaged files."""
    s3: bool = True
    """Also copy the files that are in S3."""


def back_up(
    system: BackedUpSystem, target: Path, wanted: Wanted, warn: Callable[[str], None] = lambda _: None
) -> tuple[Path, Manifest]:
    """Make a backup below `target`, record it and remove the oldest ones when it is whole. Raises CommandError."""
    system.require_whole()
    system.refuse_target(target)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (target / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _back_up(system, target, wanted, warn)
    except BlockingIOError:
        raise CommandError(f"another backup to {target} is running") from None
    except OSError as error:
        raise disk_error(error, target) from error


def _back_up(
    system: BackedUpSystem, target: Path, wanted: Wanted, warn: Callable[[str], None]
) -> tuple[Path, Manifest]:
    """With the lock of `target` held. A backup that fails is removed: its half would only fill the disk."""
    for incomplete in _incomplete(target):
        shutil.rmtree(incomplete)
    before, began = max(complete(target), default=None), datetime.now(UTC)
    made = target / began.strftime(TIME_FORMAT)
    made.mkdir(mode=0o700)
    try:
        manifest = _fill(system, made, before, wanted, began)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    if manifest.damaged:
        return made, manifest  # an older backup may hold what is damaged now: none is removed
    _record(system, manifest, warn)
    for old in sorted(complete(target))[: -wanted.keep] if wanted.keep else ():
        _remove(old)
    return made, manifest


def _record(system: BackedUpSystem, manifest: Manifest, warn: Callable[[str], None]) -> None:
    """A backup that cannot be recorded is as good as any, but its age is not known to admin."""
    moments = (datetime.fromisoformat(moment) for moment in (manifest.began_at, manifest.ended_at))
    try:
        with system.database() as login:
            database.record(login, *moments)
    except (CommandError, OSError) as error:
        warn(f"the backup is complete, but could not be recorded for the metric of its age: {error}")


def _remove(backup: Path) -> None:
    """The manifest first: a removal that is cut off leaves an incomplete backup."""
    (backup / MANIFEST).unlink()
    shutil.rmtree(backup)


def complete(target: Path) -> Iterator[Path]:
    """The complete backups below `target`; their names are in the order of time."""
    return (path for path in _backups(target) if (path / MANIFEST).exists())


def _incomplete(target: Path) -> list[Path]:
    return [path for path in _backups(target) if not (path / MANIFEST).exists()]


def _backups(target: Path) -> Iterator[Path]:
    return (path for path in target.glob("*Z") if path.is_dir() and NAME.fullmatch(path.name))


def _fill(system: BackedUpSystem, made: Path, before: Path | None, wanted: Wanted, began: datetime) -> Manifest:
    held = {path.name: path for path in (before / ELEMENTS).iterdir()} if before is not None else {}
    roots = check_roots(system.roots(), held)
    dump = made / DUMP
    with system.database() as login:
        database.dump(login, dump)
    if wanted.passphrase is not None and system.keys is not None:
        keys.seal(system.keys, made / KEYS, wanted.passphrase)
    elements, elsewhere = _copy_elements(system, roots, made / ELEMENTS, held, s3=wanted.s3)
    manifest = Manifest(
        began_at=rfc3339(began),
        ended_at=rfc3339(datetime.now(UTC)),
        dump_sha256=sha256_of(dump),
        dump_bytes=dump.stat().st_size,
        elements=elements,
        has_keys=(made / KEYS).exists(),
        not_included=elsewhere,
    )
    os.sync()  # everything that the manifest speaks of is on the disk before it
    unfinished = made / f"{MANIFEST}.new"
    with unfinished.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(made / MANIFEST)
    os.sync()
    return manifest


def _copy_elements(
    system: BackedUpSystem, roots: Mapping[str, Path], target: Path, held: Mapping[str, Path], *, s3: bool
) -> tuple[list[ElementCopy], list[str]]:
    """The copies, and the addresses of what was not to be copied."""
    elements: list[ElementCopy] = []
    elsewhere: list[str] = []
    target.mkdir()
    with ExitStack() as stack:
        access: S3Access | None = None
        for name, root in roots.items():
            files: Files = LocalFiles(root)
            if (root / BINDING).exists():
                binding = read_binding(root)
                if not s3:
                    elsewhere.append(f"{name}: {binding.url}")
                    continue
                access = access or stack.enter_context(system.s3())
                files = S3Files(access, binding)
                files.require_owner(name)
            elements.append(copy_element(root, files, target / name, held.get(name)))
    return elements, elsewhere


def lines_of(made: Path, manifest: Manifest) -> Iterator[str]:
    for element in manifest.elements:
        yield f"{element.element_id}: {element.files} files, {element.copied} of them copied ({element.copied_bytes} bytes)"
        yield from (f"{element.element_id}: DAMAGED, not copied: {text}" for text in element.damaged)
    yield from (f"not in this backup: {text}" for text in manifest.not_included)
    if not manifest.has_keys:
        yield "the keys are not in this backup: keep a copy of them elsewhere"
    yield str(made)


def check_roots(roots: Mapping[str, Path], held: Iterable[str]) -> dict[str, Path]:
    """All of them, when each holds an element. `held`: those that the backup before has. Raises CommandError."""
    for name in sorted({*roots, *held}):
        root = roots.get(name)
        if root is None:
            raise CommandError(f"{name} is in the backup before and is gone: is its disk mounted?")
        in_s3 = (root / BINDING).exists()
        if not (root / IDENTITY).exists() or not (in_s3 or (root / "files").is_dir()):
            raise CommandError(f"{root} does not hold the files of an element: is its disk mounted?")
    return dict(roots)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(backup: Path) -> Manifest:
    """Raises CommandError when `backup` is not a complete backup that this version can read."""
    try:
        manifest = msgspec.json.decode((backup / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise CommandError(f"{backup} is not a complete backup: it has no {MANIFEST}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise CommandError(f"{backup / MANIFEST} cannot be read: {error}") from None
    if manifest.format_version != FORMAT_VERSION:
        raise CommandError(f"{backup} has format {manifest.format_version}; this version reads {FORMAT_VERSION}")
    return manifest
