"""Creates .venv from a hash lock. Standard library only: it runs under the machine's Python, before anything is installed.

The copy of the lock inside .venv is its stamp. It is removed first and written last, so that an interrupted installation is
repeated. A file lock makes a second ./artstore wait for the first.

An unpacked bundle (docs/operations/air-gapped.md) has a folder `bundle/`: then everything comes from there, after a check
of all of its files, and nothing is asked of the network.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
TOOLS = VENV / "installer"
LOCKS = ("local", "test")
BUNDLE = ROOT / "bundle"
WHEELS = BUNDLE / "wheels"
SHOWN_FAULTS = 5
CHOSEN = "ARTSTORE_PYTHON_CHOSEN"
"""Set for the Python that a bundle has asked for by name, which may not be of that version after all."""


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
    if BUNDLE.is_dir():
        return unpack_uv()
    lock = str(ROOT / "requirements" / "bootstrap.lock")
    run([*pip(), "install", "--quiet", "--no-deps", "--require-hashes", "--target", str(TOOLS), "-r", lock])
    return shutil.which("uv", path=TOOLS / "bin")


def unpack_uv() -> str:
    """uv from its wheel, which needs no pip: its one program is a file of the archive."""
    wheel = next(WHEELS.glob("uv-*.whl"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if f"sha256:{digest}" not in (ROOT / "requirements" / "bootstrap.lock").read_text():
        refuse_bundle(f"the hash of {wheel.name} is not one of requirements/bootstrap.lock")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        program = TOOLS / "bin" / "uv"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_bytes(archive.read(name))
    program.chmod(0o755)
    return str(program)


def uv_environment() -> dict[str, str]:
    """The environment with pip's settings of package sources translated for uv, which does not read them."""
    environment = dict(os.environ)
    for pips, uvs in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_CERT", "SSL_CERT_FILE")):
        if pips in environment:
            environment.setdefault(uvs, environment[pips])
    return environment


def install(lock: str) -> None:
    locked = str(ROOT / "requirements" / f"{lock}.lock")
    bundled = ["--no-index", "--find-links", str(WHEELS)] if BUNDLE.is_dir() else []
    uv = find_uv()
    done = None
    if uv:
        by_uv = [uv, "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", "--python", str(PYTHON)]
        by_uv += [*bundled, *(["--offline", "--no-cache"] if bundled else []), locked]
        done = run(by_uv, uv_environment())
        if done.returncode == 0:
            return
    if done is None or not bundled:
        done = run([*pip(), "install", "--quiet", "--require-hashes", *bundled, "-r", locked])
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["the installer failed"]
        raise SystemExit(f"artstore: cannot install the requirements: {chr(10).join(said) if bundled else said[-1]}")


def refuse_bundle(reason: str) -> NoReturn:
    raise SystemExit(f"artstore: the bundle cannot be installed: {reason}")


def fit_bundle(lock: str, arguments: list[str]) -> None:
    """Refuse a bundle for another machine, and start again under a Python that it has wheels for, if need be."""
    try:
        manifest: dict[str, Any] = json.loads((BUNDLE / "bundle.json").read_bytes())
        machine, pythons, locks = manifest["machine"], manifest["pythons"], manifest["locks"]
    except (OSError, ValueError, KeyError) as error:
        refuse_bundle(f"bundle/bundle.json is missing or damaged ({error}); unpack the bundle again")
    here = f"{sys.platform}-{platform.machine()}-{platform.libc_ver()[0] or 'unknown'}"
    if machine != here:
        refuse_bundle(f"it was made for {machine}, and this machine is {here}; make one on a machine of this kind")
    if lock not in locks:
        refuse_bundle(f"it has the wheels to run the system, and `./artstore {lock}` needs others")
    if f"{sys.version_info.major}.{sys.version_info.minor}" in pythons:
        return
    for version in pythons:
        if CHOSEN not in os.environ and (program := shutil.which(f"python{version}")):
            os.environ[CHOSEN] = "1"
            os.execv(program, [program, *arguments])  # noqa: S606
    refuse_bundle(
        f"it has wheels for Python {' and '.join(pythons)}, and this machine has {platform.python_version()}; "
        f"install that Python, or make a bundle with --python {sys.version_info.major}.{sys.version_info.minor}"
    )


def check_bundle() -> None:
    """Compare every file of the bundle, the source code too, with its hash."""
    try:
        lines = (BUNDLE / "SHA256SUMS").read_text().splitlines()
    except OSError as error:
        refuse_bundle(f"bundle/SHA256SUMS: {error.strerror}; unpack the bundle again")
    faults = []
    for line in lines:
        digest, _, name = line.partition("  ")
        try:
            with (ROOT / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            faults.append(f"{name}: {error.strerror}")
        else:
            if found != digest:
                faults.append(f"{name} is damaged or was changed")
    if faults:
        more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        refuse_bundle(f"{'; '.join(faults[:SHOWN_FAULTS])}{more}; copy and unpack the bundle again")


def main(lock: str) -> None:
    with (ROOT / ".venv.lock").open("w") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("artstore: waiting for another ./artstore that is installing", file=sys.stderr)
            fcntl.flock(lock_file, fcntl.LOCK_EX)
        if is_installed(lock):
            return
        if BUNDLE.is_dir():
            check_bundle()
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
        if BUNDLE.is_dir():
            fit_bundle(sys.argv[1], sys.argv)
        elif "--offline" in sys.argv:
            raise SystemExit("artstore: --offline needs an unpacked bundle, and there is no folder bundle/ here")
        main(sys.argv[1])
    except OSError as error:
        raise SystemExit(f"artstore: cannot install into {VENV}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
