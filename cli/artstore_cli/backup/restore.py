"""`restore`: puts PostgreSQL, elements or keys of a backup back into a stopped system.

Present parts are kept, never removed. Each part is built beside its place and renamed, so a restore that is interrupted
leaves the part as it was, or as it is in the backup, or (between two renames) only under `replaced-…`; it is repeated then.
Files in S3 are added to those in the bucket instead: what the bucket has in the same or a higher revision stays.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from ..errors import CommandError, disk_error
from . import keys
from .backup import DUMP, ELEMENTS, KEYS, MANIFEST, TIME_FORMAT, Manifest, complete, read_manifest, sha256_of
from .element import IDENTITY
from .files import LocalFiles
from .s3_files import BINDING, NoBucket, Owner, S3Files, read_binding
from .system import BackedUpSystem

POSTGRES, KEYS_PART = "postgres", "keys"
UNFINISHED, REPLACED = ".restoring", "replaced-"
STAYING = (REPLACED, "lost+found")
"""What a restore leaves in a mount point: earlier replaced parts, and the folder of fsck, which belongs to root."""
SPARE_BYTES = 64 << 20
"""Left free on a disk that is restored to."""


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


class Restore:
    """One restore of some parts. `replaced` lists where the parts that were there are."""

    def __init__(self, system: BackedUpSystem, backup: Path, manifest: Manifest, say: Callable[[str], None]) -> None:
        self._system, self._backup, self._manifest, self._say = system, backup, manifest, say
        self._moment = datetime.now(UTC).strftime(TIME_FORMAT)
        self.replaced: list[str] = []

    def run(self, parts: Sequence[str], passphrase: bytes | None) -> None:
        """Checks first whatever can be checked, then restores part by part. Raises CommandError."""
        try:
            with self._system.stopped():
                if POSTGRES in parts and sha256_of(self._backup / DUMP) != self._manifest.dump_sha256:
                    raise CommandError(f"{self._backup / DUMP} is damaged: it has another SHA-256 than {MANIFEST} says")
                self._require_space([part for part in parts if part not in (POSTGRES, KEYS_PART)])
                for part in parts:
                    self._say(f"restoring {part}")
                    self._restore_part(part, passphrase)
                os.sync()  # also the names, before it is said to be done
        except OSError as error:
            raise disk_error(error, self._backup) from error

    def _restore_part(self, part: str, passphrase: bytes | None) -> None:
        if part == POSTGRES:
            if replaced := self._system.restore_database(self._backup / DUMP, self._moment):
                self._note(replaced)
        elif part == KEYS_PART:
            if self._system.keys is None:
                raise CommandError("the keys of this system are not restored here")
            self._replace(self._system.keys, lambda new: keys.unseal(self._backup / KEYS, new, passphrase or b""))
        elif self._is_in_s3(part):
            self._restore_s3(part)
        else:
            self._replace(self._system.place_of(part), lambda new: _copy_tree(self._backup / ELEMENTS / part, new))

    def _replace(self, place: Path, build: Callable[[Path], None]) -> None:
        stays = _stays(place)
        unfinished = place / UNFINISHED if stays else place.with_name(f".{place.name}{UNFINISHED}")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            build(unfinished)
            if stays:
                self._replace_content(place, unfinished)
                return
            if place.exists():
                aside = self._system.aside(place, self._moment)
                aside.mkdir(mode=0o700, exist_ok=True)
                place.rename(aside / place.name)
                self._note(str(aside))
            unfinished.replace(place)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _replace_content(self, place: Path, unfinished: Path) -> None:
        """A mount point cannot be renamed, and a symbolic link leads to the disk that is meant: what is in them is.

        element.json leaves first and comes last: the registry refuses a root without it, so after an interruption no
        element serves a part of the files, and the restore can be repeated.
        """
        aside = place / f"{REPLACED}{self._moment}"
        present = [one for one in place.iterdir() if one != unfinished and not one.name.startswith(STAYING)]
        for one in sorted(present, key=lambda one: one.name != IDENTITY):
            aside.mkdir(mode=0o700, exist_ok=True)
            one.rename(aside / one.name)
        for one in sorted(unfinished.iterdir(), key=lambda one: one.name == IDENTITY):
            one.rename(place / one.name)
        unfinished.rmdir()
        if present:
            self._note(str(aside))

    def _restore_s3(self, element_id: str) -> None:
        """A root that is there and is the one of the backup stays: its log is newer."""
        source, place = self._backup / ELEMENTS / element_id, self._system.place_of(element_id)
        binding = read_binding(source)
        with self._system.s3() as access:
            files = S3Files(access, binding)
            try:
                owner = files.find_owner()
            except NoBucket:
                files.make_bucket()
                owner = None
            if owner is not None and owner.element_id != element_id:
                raise CommandError(f"{binding.url} belongs to the element {owner.element_id}")
            put = sum(self._put_back(files, source))
            if owner is not None and owner.root_id != binding.root_id:
                files.put_owner(Owner(element_id=element_id, root_id=binding.root_id))
        self._say(f"{element_id}: {put} files put into {binding.url}, the others are there")
        if not (place / BINDING).exists() or read_binding(place) != binding:
            self._replace(place, lambda new: _copy_root(source, new))

    def _put_back(self, files: S3Files, source: Path) -> Iterator[int]:
        threads = ThreadPoolExecutor(S3Files.threads)
        held = LocalFiles(source)

        def put_unit(unit: str) -> int:
            return sum(files.put_back(path, source / path) for path in held.paths_in(unit))

        try:
            yield from threads.map(put_unit, held.units())
        finally:
            threads.shutdown(cancel_futures=True)

    def _is_in_s3(self, element_id: str) -> bool:
        return (self._backup / ELEMENTS / element_id / BINDING).exists()

    def _require_space(self, elements: Sequence[str]) -> None:
        """The present files stay, so the disks need space for the restored ones besides."""
        needed: dict[int, int] = {}
        for element_id in elements:
            root = self._system.place_of(element_id)
            place = root if _stays(root) else root.parent
            if not self._is_in_s3(element_id):
                size_bytes = _size_of(self._backup / ELEMENTS / element_id)
                disk = needed[place.stat().st_dev] = needed.get(place.stat().st_dev, SPARE_BYTES) + size_bytes
                free = shutil.disk_usage(place).free
                if disk > free:
                    raise CommandError(
                        f"no space left on the disk of {place}: {free >> 20} MiB free, {disk >> 20} needed"
                    )

    def _note(self, replaced: str) -> None:
        if replaced not in self.replaced:
            self.replaced.append(replaced)


def _stays(place: Path) -> bool:
    return os.path.ismount(place) or place.is_symlink()


def _copy_root(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    for name in (IDENTITY, BINDING):
        shutil.copyfile(source / name, target / name)


def _copy_tree(source: Path, target: Path) -> None:
    """On the disk before it is renamed to its place."""
    shutil.copytree(source, target)
    os.sync()


def _size_of(folder: Path) -> int:
    return sum((Path(at) / name).stat().st_size for at, _, names in os.walk(folder) for name in names)
