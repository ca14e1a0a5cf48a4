"""Real file systems for tests: on a loop device over a plain image, or over a disk that records (`recording.py`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULE = Path(__file__).parents[2]
WAIT_S = 120
MAKE = {
    "ext4": (64 << 20, ["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]),
    "xfs": (320 << 20, ["mkfs.xfs", "-q", "-f", "-K"]),
}
"""Size of the image and the command that makes the file system."""


def why_not(kind: str) -> str | None:
    """The reason why this machine cannot provide a disk of that kind."""
    if os.geteuid() != 0:
        return "only root may mount"
    for needed in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(needed):
            return f"there is no {needed}"
    if not shutil.which(MAKE[kind][1][0]):
        return f"{MAKE[kind][1][0]} is not installed"
    return None


def new_image(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


@contextmanager
def loop_device(file: Path) -> Iterator[str]:
    device = _run("losetup", "--find", "--show", str(file)).strip()
    try:
        yield device
    finally:
        _run("losetup", "--detach", device)


@contextmanager
def mounted(device: str, mountpoint: Path) -> Iterator[Path]:
    """The journal of the file system is replayed by this, as after a power cut."""
    mountpoint.mkdir(exist_ok=True)
    _run("mount", device, str(mountpoint))
    try:
        yield mountpoint
    finally:
        _run("umount", str(mountpoint))


@contextmanager
def small_disk(folder: Path, size_bytes: int, kind: str = "ext4") -> Iterator[Path]:
    image = new_image(folder / "small.img", size_bytes)
    _run(*MAKE[kind][1], str(image))
    with loop_device(image) as device, mounted(device, folder / "small") as mountpoint:
        yield mountpoint


@dataclass(frozen=True, slots=True)
class Recorded:
    mountpoint: Path
    record: Path
    size_bytes: int

    def break_flushes(self) -> None:
        self.record.with_name("broken").touch()


@contextmanager
def recorded_disk(folder: Path, kind: str) -> Iterator[Recorded]:
    """A fresh file system whose every write since before it was made is in the record."""
    size_bytes, make = MAKE[kind]
    image, served, record = new_image(folder / "live.img", size_bytes), folder / "served", folder / "record"
    served.mkdir()
    recorder = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.recording", str(image), str(served), str(record)], cwd=MODULE
    )
    try:
        _wait_for(served / "disk", recorder)
        with loop_device(served / "disk") as device:
            _run(*make, device)
            with mounted(device, folder / "live") as mountpoint:
                yield Recorded(mountpoint, record, size_bytes)
    finally:
        subprocess.run(["umount", str(served)], check=False, capture_output=True)
        recorder.kill()
        recorder.wait()


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the recording disk did not start (exit status {process.poll()})")
        time.sleep(0.01)


def _run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
