"""Creates .venv from a hash lock. Standard library only: it runs under the machine's Python, before anything is installed.

The copy of the lock inside .venv is its stamp. It is removed first and written last, so that an interrupted installation is
repeated. A file lock makes a second ./artstore wait for the first.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TOOLS = VENV / "installer"
LOCKS = ("local", "test")


def stamp(lock: str) -> Path:
    return VENV / f"{lock}.lock"


def wanted(lock: str) -> bytes:
    return (ROOT / "requirements" / f"{lock}.lock").read_bytes()


def is_installed(lock: str) -> bool:
    return any(stamp(name).exists() and stamp(name).read_bytes() == wanted(name) for name in {lock, "test"})


def pip() -> list[str]:
    """A pip that installs into .venv: the machine's own if it has one, else the copy that comes with Python."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    if not importlib.util.find_spec("ensurepip"):
        raise SystemExit(
            "artstore: this Python has neither pip nor ensurepip; install one (Debian: apt install python3-venv)"
        )
    subprocess.run([PYTHON, "-m", "ensurepip", "--default-pip"], check=True, stdout=subprocess.DEVNULL)
    return [str(PYTHON), "-m", "pip"]


def run(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def find_uv() -> str | None:
    """uv installs ten times faster than pip. None when it is neither installed nor available."""
    found = shutil.which("uv") or shutil.which("uv", path=TOOLS / "bin")
    if found:
        return found
    lock = str(ROOT / "requirements" / "bootstrap.lock")
    run([*pip(), "install", "--quiet", "--no-deps", "--require-hashes", "--target", str(TOOLS), "-r", lock])
    return shutil.which("uv", path=TOOLS / "bin")


def uv_environment() -> dict[str, str]:
    """The environment with pip's settings of package sources translated for uv, which does not read them."""
    environment = dict(os.environ)
    for pips, uvs in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_CERT", "SSL_CERT_FILE")):
        if pips in environment:
            environment.setdefault(uvs, environment[pips])
    return environment


def install(lock: str) -> None:
    locked = str(ROOT / "requirements" / f"{lock}.lock")
    uv = find_uv()
    by_uv = [
        uv or "",
        "pip",
        "sync",
        "--quiet",
        "--require-hashes",
        "--compile-bytecode",
        "--python",
        str(PYTHON),
        locked,
    ]
    if uv and run(by_uv, uv_environment()).returncode == 0:
        return
    by_pip = run([*pip(), "install", "--quiet", "--require-hashes", "-r", locked])
    if by_pip.returncode != 0:
        said = by_pip.stderr.strip().splitlines() or ["pip failed"]
        raise SystemExit(f"artstore: cannot install the requirements: {said[-1]}")


def main(lock: str) -> None:
    with (ROOT / ".venv.lock").open("w") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("artstore: waiting for another ./artstore that is installing", file=sys.stderr)
            fcntl.flock(lock_file, fcntl.LOCK_EX)
        if is_installed(lock):
            return
        print("artstore: installing into .venv (once)", file=sys.stderr)
        if not any(stamp(name).exists() for name in LOCKS):
            shutil.rmtree(VENV, ignore_errors=True)
            venv.create(VENV, with_pip=False, symlinks=True)
        for name in LOCKS:
            stamp(name).unlink(missing_ok=True)
        install(lock)
        temporary = VENV / f".{lock}.lock.new"
        temporary.write_bytes(wanted(lock))
        os.replace(temporary, stamp(lock))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except OSError as error:
        raise SystemExit(f"artstore: cannot install into {VENV}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
