"""`restore`: puts PostgreSQL, elements or keys of a backup back into the data folder of a stopped system.

The present parts are moved to `DIR/replaced-<UTC time>/`, never removed. Each part is built beside its place and renamed, so
a restore that is interrupted leaves the part as it was, or as it is in the backup.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ..data_folder import DataFolder
from ..errors import CommandError, disk_error
from . import database, keys
from .backup import DUMP, ELEMENTS, KEYS, MANIFEST, TIME_FORMAT, Manifest, complete, read_manifest, sha256_of

POSTGRES, KEYS_PART, VALKEY = "postgres", "keys", "valkey"


def find_backup(source: Path) -> tuple[Path, Manifest]:
    """`source` itself, or the last complete backup below it. Raises CommandError."""
    if not source.is_dir():
        raise CommandError(f"there is no folder {source}")
    if not (source / MANIFEST).exists():
        found = max(complete(source), default=None)
        if found is None:
            raise CommandError(f"{source} holds no complete backup")
        source = found
    return source, read_manifest(source)


def parts_of(manifest: Manifest, wanted: Sequence[str], *, with_keys: bool) -> list[str]:
    """The parts to restore, in their order; all of the backup when none is wanted. Raises CommandError."""
    held = [*([KEYS_PART] if manifest.has_keys and with_keys else []), POSTGRES]
    held += [element.element_id for element in manifest.elements]
    unknown = [part for part in wanted if part not in held]
    if unknown:
        reason = "needs the passphrase of the backup" if KEYS_PART in unknown and manifest.has_keys else "is not in it"
        raise CommandError(f"{unknown[0]} {reason}; the backup holds {', '.join(held)}")
    return [part for part in held if not wanted or part in wanted]


def restore(
    folder: DataFolder,
    backup: Path,
    manifest: Manifest,
    parts: Sequence[str],
    passphrase: bytes | None,
    say: Callable[[str], None],
) -> Path | None:
    """Restore the parts. Returns where the replaced ones are, None when nothing was replaced. Raises CommandError."""
    aside = folder.path / f"replaced-{datetime.now(UTC).strftime(TIME_FORMAT)}"
    try:
        folder.prepare()
        with folder.locked():
            if POSTGRES in parts and sha256_of(backup / DUMP) != manifest.dump_sha256:
                raise CommandError(f"{backup / DUMP} is damaged: it has another SHA-256 than {MANIFEST} says")
            for part in parts:
                say(f"restoring {part}")
                _restore_part(folder, backup, part, passphrase, aside)
    except OSError as error:
        raise disk_error(error, folder.path) from error
    return aside if aside.exists() else None


def _restore_part(folder: DataFolder, backup: Path, part: str, passphrase: bytes | None, aside: Path) -> None:
    if part == POSTGRES:
        if not (folder.keys / "postgres-password").exists():
            raise CommandError(
                f"{folder.keys} has no keys of this database; restore them first, from the backup or your own copy"
            )
        database.restore(folder, backup / DUMP, lambda: _move_aside(folder.postgres, aside))
        _move_aside(folder.valkey, aside)  # its caches may know later rows
        return
    place = folder.keys if part == KEYS_PART else folder.elements / part
    unfinished = place.with_name(f".{place.name}.restoring")
    shutil.rmtree(unfinished, ignore_errors=True)
    if part == KEYS_PART:
        keys.unseal(backup / KEYS, unfinished, passphrase or b"")
    else:
        shutil.copytree(backup / ELEMENTS / part, unfinished)
    _move_aside(place, aside)
    unfinished.replace(place)


def _move_aside(place: Path, aside: Path) -> None:
    if place.exists():
        aside.mkdir(mode=0o700, exist_ok=True)
        place.rename(aside / place.name)
