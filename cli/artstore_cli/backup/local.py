"""The system of `./artstore up` on a data folder. A service that does not run is started for as long as it is needed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from artstore.local import postgres, seaweedfs
from artstore.local.ports import LOOPBACK, choose_ports

from ..data_folder import DataFolder, find_ports, find_record
from ..errors import CommandError
from ..fleet import POSTGRES, SEAWEEDFS
from ..parts import serve_postgres, serve_seaweedfs
from ..processes import Command, identify, spawn
from ..system import stop_processes
from .backup import check_roots
from .database import Login, fill, local_login
from .element import IDENTITY
from .s3_files import BINDING, S3Access, read_binding

PASSWORD = "postgres-password"
READY_TIMEOUT_S = 120
POLL_S = 0.1


class LocalSystem:
    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._locked = False
        """By this process: then nothing of the folder runs."""

    @property
    def keys(self) -> Path | None:
        return self._folder.keys

    def require_whole(self) -> None:
        if not (self._folder.postgres / "PG_VERSION").exists():
            raise CommandError(f"{self._folder.path} holds no system: there is no database in {self._folder.postgres}")

    def refuse_target(self, target: Path) -> None:
        if target.resolve().is_relative_to(self._folder.path.resolve()):
            raise CommandError(f"{target} is inside the data folder: it would be lost together with it")

    def roots(self) -> Mapping[str, Path]:
        return {path.name: path for path in sorted(self._folder.elements.iterdir()) if _is_root(path)}

    @contextmanager
    def database(self) -> Iterator[Login]:
        password = (self._folder.keys / PASSWORD).read_text()
        if self._runs(POSTGRES):
            yield local_login(find_ports(self._folder)[POSTGRES], password)
            return
        with self._lock(), _started_postgres(self._folder) as port:
            yield local_login(port, password)

    @contextmanager
    def s3(self) -> Iterator[S3Access]:
        key, secret = (
            (self._folder.keys / name).read_text().strip() for name in ("s3-access-key-id", "s3-secret-access-key")
        )
        if self._runs(SEAWEEDFS):
            ports = find_ports(self._folder)
            yield S3Access(f"http://{LOOPBACK}:{ports['s3.port']}", key, secret)
            return
        with self._lock():
            ports = choose_ports(seaweedfs.PORTS, {})
            log = self._folder.log(SEAWEEDFS)
            with _started(serve_seaweedfs(self._folder, ports), lambda _: seaweedfs.is_ready(ports), SEAWEEDFS, log):
                yield S3Access(f"http://{LOOPBACK}:{ports['s3.port']}", key, secret)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self._folder.prepare()
        with self._folder.locked():
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def place_of(self, element_id: str) -> Path:
        return self._folder.elements / element_id

    def aside(self, place: Path, moment: str) -> Path:
        return self._folder.path / f"replaced-{moment}"

    def restore_database(self, dump: Path, moment: str) -> str:
        """The cluster is built elsewhere; when it is whole, the present one is moved away and it is renamed."""
        folder = self._folder
        if not (folder.keys / PASSWORD).exists():
            raise CommandError(
                f"{folder.keys} has no keys of this database; restore them first, from the backup or your own copy"
            )
        building = DataFolder(folder.restoring)
        shutil.rmtree(building.path, ignore_errors=True)
        building.logs.mkdir(mode=0o711, parents=True)
        account, password = postgres.find_account(folder.postgres), (folder.keys / PASSWORD).read_text()
        try:
            postgres.create_cluster(building.postgres, postgres.load_program(account), account, password)
        except postgres.CannotRun as error:
            raise CommandError(str(error)) from None
        with _started_postgres(building) as port:
            fill(local_login(port, password), dump)
        aside = self.aside(folder.postgres, moment)
        present = [place for place in (folder.postgres, folder.valkey) if place.exists()]
        for place in present:  # Valkey's caches may know later rows
            aside.mkdir(mode=0o700, exist_ok=True)
            place.rename(aside / place.name)
        building.postgres.rename(folder.postgres)
        shutil.rmtree(building.path)
        return str(aside) if present else ""

    def _runs(self, part: str) -> bool:
        record = find_record(self._folder)
        process = record.processes.get(part) if record is not None else None
        return not self._locked and process is not None and process.alive()

    def _lock(self) -> AbstractContextManager[None]:
        return nullcontext() if self._locked else self._folder.locked()


def _is_root(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


@contextmanager
def _started_postgres(folder: DataFolder) -> Iterator[int]:
    port = choose_ports([POSTGRES], {})[POSTGRES]
    account = postgres.find_account(folder.postgres)
    command = serve_postgres(folder, postgres.load_program(account), account, port)
    with _started(command, lambda pid: postgres.is_ready(folder.postgres, pid), POSTGRES, folder.log(POSTGRES)):
        yield port


@contextmanager
def _started(command: Command, is_ready: Callable[[int], bool], name: str, log: Path) -> Iterator[None]:
    process = spawn(command)
    identity = identify(process)
    try:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise CommandError(f"{name} does not start in {command.folder}; see {log}")
            time.sleep(POLL_S)
        yield
    finally:
        stop_processes([(identity, command.stop_signal)], [process])


def what_to_copy(folder: DataFolder) -> Iterator[tuple[str, str]]:
    """Paths, addresses and commands for another backup program, each with a note."""
    port = find_ports(folder).get(POSTGRES, 5432)
    yield f"pg_dump -Fc -h {LOOPBACK} -p {port} -U artstore artstore", f"password: {folder.keys / PASSWORD}"
    for root in check_roots(LocalSystem(folder).roots(), ()).values():
        if (root / BINDING).exists():
            yield read_binding(root).url, f"without quarantine/; the files of {root.name}"
            yield f"{root / IDENTITY} {root / BINDING}", "beside them"
        else:
            yield str(root), "without tmp/ and uploads/"
    yield str(folder.keys), "apart from the rest: it opens the database"
