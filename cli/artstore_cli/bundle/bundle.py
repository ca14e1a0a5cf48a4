"""`bundle`: one tar file from which a machine without a network installs and runs the system.

It is the source code, as git knows it, with a folder `bundle/` in it: cli/install.py installs from there whenever that
folder exists. The wheels are exactly those of the lock files: pip compares their hashes here, and uv does again there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from artstore_client import VERSION

from ..errors import CommandError, ExitCode, disk_error
from .sbom import bill_of_materials

TOP, FOLDER = "artstore", "bundle"
LOCKS = ("local", "bootstrap")
"""For `./artstore up`, and uv, which installs it."""
IMAGE_LOCKS = ("services", "backup")
ONLY_PYTHON = re.compile(r" ; python_(?:full_)?version [<>=!]+ '[\d.]+'(?= \\?$)", re.MULTILINE)
"""A marker about the version of Python alone. It is ignored: the other machine's may differ from this one's."""
NEWEST_GLIBC = 2, 36
"""The C library of Debian 12, the oldest that the images' Python is built on."""


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """bundle/bundle.json. cli/install.py compares machine and Python with it."""

    version: str
    commit: str
    machine: str
    """As `platform_of` says it."""
    pythons: Sequence[str]
    locks: Sequence[str]
    image_python: str | None
    """The images' Python, if their wheels are in image-wheels/."""
    images: Mapping[str, str]
    """The images in images.tar, with their ids."""
    made_at: str


def platform_of() -> str:
    """System, processor and C library, for instance `linux-x86_64-glibc`. The same in cli/install.py."""
    return f"{sys.platform}-{platform.machine()}-{platform.libc_ver()[0] or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Options:
    pythons: Sequence[str]
    containers: bool
    images: bool


def make_bundle(root: Path, target: Path, options: Options, say: Callable[[str], None]) -> BundleManifest:
    """Writes `target`, atomically. Raises CommandError."""
    if target.exists():
        raise CommandError(f"{target} exists", code="exists", exit_code=ExitCode.CONFLICT, hint="give another name")
    try:
        with tempfile.TemporaryDirectory(prefix=".artstore-bundle-", dir=target.parent) as scratch:
            folder = Path(scratch) / FOLDER
            manifest = _collect(root, folder, options, say)
            say("packing")
            partial = Path(scratch) / "bundle.tar"
            _pack(_sources(root), folder, partial)
            os.replace(partial, target)
    except OSError as error:
        raise disk_error(error, target) from error
    return manifest


def _collect(root: Path, folder: Path, options: Options, say: Callable[[str], None]) -> BundleManifest:
    """Fills `folder`, the bundle's own part."""
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=folder.parent) as place:
        pip = _find_pip(Path(place))
        for version in options.pythons:
            for lock in LOCKS:
                say(f"collecting the wheels of requirements/{lock}.lock for Python {version}")
                _download(pip, root, lock, folder / "wheels", version)
        image_python = _image_python(root) if options.containers or options.images else None
        if image_python:
            say(f"collecting the wheels of the images, for Python {image_python}")
            for lock in IMAGE_LOCKS:
                _download(pip, root, lock, folder / "image-wheels", image_python, other_machine=True)
    images = _save_images(root, folder / "images.tar", say) if options.images else {}
    now = datetime.now(UTC)
    # A wheel that the images need too is there twice.
    wheels = {path: _digest(path) for path in {path.name: path for path in sorted(folder.rglob("*.whl"))}.values()}
    bill = bill_of_materials(VERSION, now, wheels, images)
    (folder / "sbom.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")
    made_at = now.isoformat(timespec="seconds")
    manifest = BundleManifest(
        VERSION, _commit(root), platform_of(), options.pythons, LOCKS, image_python, images, made_at
    )
    (folder / "bundle.json").write_text(json.dumps(asdict(manifest), indent=1) + "\n")
    return manifest


def _find_pip(place: Path) -> list[str]:
    """The pip of the Python that .venv was made from, or a new one below `place`."""
    python = os.path.realpath(sys.executable)
    if subprocess.run([python, "-c", "import pip"], capture_output=True).returncode == 0:
        return [python, "-m", "pip"]
    made = subprocess.run([python, "-m", "venv", str(place)], capture_output=True, text=True)
    if made.returncode != 0:
        raise CommandError(
            "this Python has neither pip nor ensurepip", hint="install one (Debian: apt install python3-venv)"
        )
    return [str(place / "bin" / "python"), "-m", "pip"]


def _download(
    pip: Sequence[str], root: Path, lock: str, folder: Path, version: str, *, other_machine: bool = False
) -> None:
    """The wheels of a lock. Raises CommandError when one is missing or its hash is not the locked one."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder.parent / f".{lock}.lock"
    copy.write_text(ONLY_PYTHON.sub("", (root / "requirements" / f"{lock}.lock").read_text()))
    command = [*pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--requirement", str(copy)]
    if other_machine or version != current_python():
        command += ["--python-version", version, "--implementation", "cp"]
        command += [part for name in _platforms() for part in ("--platform", name)]
    done = subprocess.run(command, capture_output=True, text=True)
    copy.unlink()
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise CommandError(f"requirements/{lock}.lock for Python {version}: {' '.join(lines[-3:]) or 'pip failed'}")


def current_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _platforms() -> Iterator[str]:
    """Tags of wheels, newest first, for the images and other Pythons. pip derives no older tag from a newer one."""
    machine = platform.machine()
    for minor in range(NEWEST_GLIBC[1], 4, -1):
        yield f"manylinux_{NEWEST_GLIBC[0]}_{minor}_{machine}"
    for name in ("2014", "2010", "1"):
        yield f"manylinux{name}_{machine}"


def _image_python(root: Path) -> str:
    found = re.search(r"^FROM python:(3\.\d+)", (root / "query-module" / "Dockerfile").read_text(), re.MULTILINE)
    if found is None:
        raise CommandError("query-module/Dockerfile names no version of Python")
    return found[1]


def images_of(root: Path) -> list[str]:
    """The images of others: those that ours are built on, and those that compose runs without a profile."""
    texts = [(root / "docker-compose.yml").read_text(), *(path.read_text() for path in root.glob("*/Dockerfile"))]
    found = [name for text in texts for name in re.findall(r"^(?:FROM|\s+image:) ([^\s$]+:\S+)", text, re.MULTILINE)]
    return sorted(set(found))


def _save_images(root: Path, target: Path, say: Callable[[str], None]) -> dict[str, str]:
    """`docker save` of the images, which must be on this machine. Returns their ids."""
    names = images_of(root)
    ids = {}
    for name in names:
        ids[name] = _docker("image", "inspect", "--format", "{{.Id}}", name, hint=f"docker pull {name}").strip()
    say(f"saving the images {', '.join(names)}")
    _docker("save", "--output", str(target), *names)
    return ids


def _docker(*arguments: str, hint: str = "") -> str:
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise CommandError("--images needs docker, which is not on PATH") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["docker failed"])[-1]
        raise CommandError(f"docker {' '.join(arguments[:2])}: {last}", hint=hint)
    return done.stdout


def _sources(root: Path) -> dict[str, Path]:
    """The files of the source code by their names: those that git has, or those of the bundle that `root` came from."""
    if (root / ".git").exists():
        listed = _git(root, "ls-files", "-z").split("\0")
        names = [name for name in listed if name and (root / name).is_file()]
    else:
        sums = root / FOLDER / "SHA256SUMS"
        if not sums.exists():
            raise CommandError(f"{root} is neither a clone nor an unpacked bundle")
        listed = [line.partition("  ")[2] for line in sums.read_text().splitlines()]
        names = [name for name in listed if not name.startswith(f"{FOLDER}/")]
    return {name: root / name for name in sorted(names)}


def _commit(root: Path) -> str:
    """The commit, with `+` when files differ from it; empty outside a clone."""
    if not (root / ".git").exists():
        return ""
    changed = "+" if _git(root, "status", "--porcelain", "--untracked-files=no").strip() else ""
    return _git(root, "rev-parse", "HEAD").strip() + changed


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise CommandError("a bundle of a clone needs git, which is not on PATH") from None
    if done.returncode != 0:
        raise CommandError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _pack(sources: Mapping[str, Path], folder: Path, target: Path) -> None:
    """Source and bundle below one folder, with SHA256SUMS of them all. Owners, times and umask of this machine stay out."""
    own = {f"{FOLDER}/{path.relative_to(folder)}": path for path in sorted(folder.rglob("*")) if path.is_file()}
    every = {**sources, **own}
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(f"{_digest(path)}  {name}\n" for name, path in every.items()))
    with target.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, path in {**every, f"{FOLDER}/SHA256SUMS": sums}.items():
                tar.add(path, f"{TOP}/{name}", recursive=False, filter=_plain)
        file.flush()
        os.fsync(file.fileno())


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
