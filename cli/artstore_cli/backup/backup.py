"""`backup`: one more backup of a local system in a folder, while the system runs.

A backup is the folder `<UTC time>/` with `postgres.dump`, `elements/<id>/`, on request `keys.enc`, and `manifest.json`, which
is written last: a backup without it is incomplete, and is removed by the next one. PostgreSQL is dumped before the files are
copied, so the files are never older than the catalog: what the dump does not know is kept at a restore (DESIGN.md of the
catalog's generations: docs/decisions/0008-generations.md), while a row without its file is removed by the elements' check.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from artstore import __version__
from artstore.clock import rfc3339

from ..data_folder import DataFolder, find_ports
from ..errors import CommandError, disk_error
from . import database, keys
from .element import ElementCopy, copy_element

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
    """Elements whose files are elsewhere (S3): their bucket needs a backup of its own."""

    @property
    def damaged(self) -> int:
        return sum(len(element.damaged) for element in self.elements)


def back_up(folder: DataFolder, target: Path, passphrase: bytes | None, keep: int | None) -> tuple[Path, Manifest]:
    """Make a backup below `target`, then remove all complete ones but the last `keep`. Raises CommandError."""
    if not (folder.postgres / "PG_VERSION").exists():
        raise CommandError(f"{folder.path} holds no system: there is no database in {folder.postgres}")
    if target.resolve().is_relative_to(folder.path.resolve()):
        raise CommandError(f"{target} is inside the data folder: it would be lost together with it")
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (target / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _back_up(folder, target, passphrase, keep)
    except BlockingIOError:
        raise CommandError(f"another backup to {target} is running") from None
    except OSError as error:
        raise disk_error(error, target) from error


def _back_up(folder: DataFolder, target: Path, passphrase: bytes | None, keep: int | None) -> tuple[Path, Manifest]:
    """With the lock of `target` held. A backup that fails is removed: its half would only fill the disk."""
    for incomplete in _incomplete(target):
        shutil.rmtree(incomplete)
    before, began = max(complete(target), default=None), datetime.now(UTC)
    made = target / began.strftime(TIME_FORMAT)
    made.mkdir(mode=0o700)
    try:
        manifest = _fill(folder, made, before, passphrase, began)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    for old in sorted(complete(target))[:-keep] if keep else ():
        shutil.rmtree(old)
    return made, manifest


def complete(target: Path) -> Iterator[Path]:
    """The complete backups below `target`; their names are in the order of time."""
    return (path for path in _backups(target) if (path / MANIFEST).exists())


def _incomplete(target: Path) -> list[Path]:
    return [path for path in _backups(target) if not (path / MANIFEST).exists()]


def _backups(target: Path) -> Iterator[Path]:
    return (path for path in target.glob("*Z") if path.is_dir() and NAME.fullmatch(path.name))


def _fill(folder: DataFolder, made: Path, before: Path | None, passphrase: bytes | None, began: datetime) -> Manifest:
    dump = made / DUMP
    database.dump(folder, dump)
    if passphrase is not None:
        keys.seal(folder.keys, made / KEYS, passphrase)
    elements: list[ElementCopy] = []
    elsewhere: list[str] = []
    held = {path.name: path for path in (before / ELEMENTS).iterdir()} if before is not None else {}
    for root in _roots(folder, held):
        if (root / "files").is_dir():
            elements.append(copy_element(root, made / ELEMENTS / root.name, held.get(root.name)))
        else:
            elsewhere.append(root.name)
    manifest = Manifest(
        began_at=rfc3339(began),
        ended_at=rfc3339(datetime.now(UTC)),
        dump_sha256=sha256_of(dump),
        dump_bytes=dump.stat().st_size,
        elements=elements,
        has_keys=passphrase is not None,
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


def what_to_copy(folder: DataFolder) -> Iterator[str]:
    """Paths and commands for another backup program."""
    port = find_ports(folder).get("postgres", 5432)
    yield f"pg_dump -Fc -h 127.0.0.1 -p {port} -U artstore artstore   # password: {folder.keys / 'postgres-password'}"
    for root in _roots(folder):
        yield f"{root}   # without tmp/ and uploads/" if (root / "files").is_dir() else f"the bucket of {root.name}"
    yield f"{folder.keys}   # apart from the rest: it opens the database"


def lines_of(made: Path, manifest: Manifest) -> Iterator[str]:
    for element in manifest.elements:
        yield f"{element.element_id}: {element.files} files, {element.copied} of them copied ({element.copied_bytes} bytes)"
        yield from (f"{element.element_id}: DAMAGED, not copied: {text}" for text in element.damaged)
    yield from (f"{name}: its files are in S3 and not in this backup" for name in manifest.not_included)
    if not manifest.has_keys:
        yield "the keys are not in this backup: keep a copy of them elsewhere"
    yield str(made)


def _roots(folder: DataFolder, held: Iterable[str] = ()) -> list[Path]:
    """The folders of all elements. `held`: those whose files the backup before has. Raises CommandError when one is gone."""
    roots = sorted(path for path in folder.elements.iterdir() if path.is_dir())
    for root in sorted({*roots, *(folder.elements / name for name in held)}):
        if not (root / "element.json").exists() or (root.name in held and not (root / "files").is_dir()):
            raise CommandError(f"{root} does not hold the files of an element: is its disk mounted?")
    return roots


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
