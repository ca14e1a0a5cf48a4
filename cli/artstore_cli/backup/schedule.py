"""`python -m artstore_cli.backup.schedule`: the services `backup` and `restore` of docker-compose.yml.

Without arguments it makes a backup every day. `now` makes one and ends; `restore [TIME]` puts one back.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from artstore.config import load_settings
from artstore.logs import configure_logs, get_logger

from ..errors import CommandError
from .backup import TIME_FORMAT, Wanted, back_up, complete
from .containers import BACKUPS, BackupSettings, ContainerSystem
from .restore import Restore, find_backup, parts_of

RETRY_PAUSES_S = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""After each failure in a row; the last one repeats. At the first start the elements make their folders meanwhile."""
STEP_S = 30.0
"""How long the schedule sleeps at most before it looks at the clock again, which may be set."""
DAMAGED = 2
"""Exit code of `now` when files could not be copied because their bytes are not what they should be."""

log = get_logger("backup")


def due_at(now: datetime, newest: datetime | None, at: str) -> datetime:
    """When the next backup is due: at once without any, or when the last daily moment was missed."""
    hour, _, minute = at.partition(":")
    last = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
    if last > now:
        last -= timedelta(days=1)
    return last + timedelta(days=1) if newest is not None and newest >= last else now


def newest_below(target: Path) -> datetime | None:
    newest = max(complete(target), default=None)
    return None if newest is None else datetime.strptime(newest.name, TIME_FORMAT).replace(tzinfo=UTC)


def make_backup(settings: BackupSettings) -> bool:
    """False when files were damaged and not copied. Raises CommandError."""
    began_s = time.monotonic()
    wanted = Wanted(keep=settings.backup_keep, s3=settings.backup_s3)
    made, manifest = back_up(ContainerSystem(settings), BACKUPS, wanted, lambda text: log.error(text))
    for element in manifest.elements:
        for text in element.damaged:
            log.error("damaged file not copied", element=element.element_id, file=text)
    log.info(
        "backup made",
        backup=made.name,
        files=sum(element.files for element in manifest.elements),
        copied=sum(element.copied for element in manifest.elements),
        copied_bytes=sum(element.copied_bytes for element in manifest.elements),
        damaged=manifest.damaged,
        not_included=manifest.not_included,
        seconds=round(time.monotonic() - began_s, 1),
    )
    return not manifest.damaged


def pause_after(failures: int) -> float:
    """Seconds until the next attempt, by the number of failures in a row."""
    return RETRY_PAUSES_S[min(failures, len(RETRY_PAUSES_S)) - 1]


def run_daily(settings: BackupSettings) -> None:
    failures = 0
    while True:
        due = due_at(datetime.now(UTC), newest_below(BACKUPS), settings.backup_at)
        log.info("next backup", at=due.isoformat(timespec="seconds"))
        while (remaining_s := (due - datetime.now(UTC)).total_seconds()) > 0:
            time.sleep(min(remaining_s, STEP_S))
        try:
            make_backup(settings)
            failures = 0
        except CommandError as error:
            failures += 1
            pause_s = pause_after(failures)
            log.error("backup failed", reason=str(error), retry_in_s=pause_s)
            time.sleep(pause_s)


def restore(settings: BackupSettings, moment: str | None, only: list[str]) -> None:
    backup, manifest = find_backup(BACKUPS / moment if moment else BACKUPS)
    parts = parts_of(manifest, only, with_keys=False)
    print(f"restoring {', '.join(parts)} of {backup.name}, made at {manifest.began_at}", file=sys.stderr)
    work = Restore(ContainerSystem(settings), backup, manifest, lambda text: print(text, file=sys.stderr))
    work.run(parts, None)
    for place in work.replaced:
        print(f"what was there is kept: {place}")
    print(
        "done: start the modules; an element that is then fenced needs accept-root (docs/operations/backup-compose.md)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="backup", description="Backups of the system of docker-compose.yml.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("now", help="make a backup, and end")
    asked = commands.add_parser("restore", help="put a backup back, while the modules are stopped")
    asked.add_argument("moment", nargs="?", help="a folder of /backups; by default the last complete one")
    asked.add_argument("--only", action="append", default=[], metavar="PART", help="postgres, or an element's id")
    given = parser.parse_args()
    settings = load_settings(BackupSettings)
    configure_logs("backup", settings.log_level, settings.log_format)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as process 1 it would ignore it
    try:
        if given.command == "restore":
            restore(settings, given.moment, given.only)
        elif given.command == "now":
            return 0 if make_backup(settings) else DAMAGED
        else:
            run_daily(settings)
    except CommandError as error:
        print(f"{given.command or 'backup'}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
