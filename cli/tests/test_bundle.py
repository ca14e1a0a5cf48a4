"""A bundle installs without a network, and refuses what is damaged, exchanged or made for another machine.

Here with a tiny source tree and one package; tests/faults/test_air_gapped.py does it with the whole system.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from artstore_cli.bundle.bundle import Options, current_python, images_of, make_bundle
from artstore_cli.errors import CommandError, ExitCode

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = ["unshare", "--net", "--map-root-user"]
UV = shutil.which("uv") or shutil.which("uv", path=ROOT / ".venv" / "installer" / "bin")
PURE = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

needs_uv = pytest.mark.skipif(UV is None, reason="uv could not be installed on this machine")


def make_wheel(folder: Path, name: str, members: dict[str, bytes]) -> tuple[Path, str]:
    """A wheel of version 1.0 and the lines of a lock for it."""
    wheel, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense-Expression: MIT OR Apache-2.0\n"
    every = {**members, f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": PURE.encode()}
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in every.items():
            archive.writestr(path, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*every, f"{info}/RECORD"]))
    return wheel, f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a source tree with one requirement, and one for older Pythons only, from a folder of wheels."""
    folder = tmp_path_factory.mktemp("bundle")
    source, wheels = folder / "source", folder / "wheels"
    wheels.mkdir()
    locks = source / "requirements"
    locks.mkdir(parents=True)
    (source / "cli").mkdir()
    shutil.copy(ROOT / "cli" / "install.py", source / "cli")
    _, lock = make_wheel(wheels, "example", {"example.py": b"ANSWER = 42\n"})
    _, older = make_wheel(wheels, "older", {})
    (locks / "local.lock").write_text(lock + older.replace(" \\\n", " ; python_full_version < '3.11.1' \\\n"))
    _, lock = make_wheel(wheels, "uv", {"uv-1.0.data/scripts/uv": Path(UV or sys.executable).read_bytes()})
    (locks / "bootstrap.lock").write_text(lock)
    git = ["git", "-C", str(source), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=all"], check=True)
    (source / "secret").write_text("not in git, so not in the bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(wheels))
        make_bundle(source, folder / "out.tar", Options([current_python()], False, False), lambda text: None)
        with pytest.raises(CommandError, match=r"out\.tar exists") as refused:
            make_bundle(source, folder / "out.tar", Options([current_python()], False, False), lambda text: None)
        assert refused.value.exit_code == ExitCode.CONFLICT
    assert {path.name for path in folder.iterdir()} == {"source", "wheels", "out.tar"}
    return folder / "out.tar"


@pytest.fixture
def unpacked(bundle: Path, tmp_path: Path) -> Path:
    with tarfile.open(bundle) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "artstore"


def install(root: Path, *, network: bool = True, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """As the launcher calls it, with an empty home."""
    home = root.parent / "home"
    home.mkdir(exist_ok=True)
    command = [os.path.realpath(python), str(root / "cli" / "install.py"), "local", "--offline"]
    environment = {"HOME": str(home), "PATH": f"{root.parent / 'programs'}:{os.defpath}"}
    return subprocess.run(
        [*([] if network else NO_NETWORK), *command], capture_output=True, text=True, env=environment, timeout=120
    )


def refused(root: Path) -> str:
    done = install(root)
    assert done.returncode == 1
    assert not (root / ".venv" / "local.lock").exists()
    return done.stderr


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def state_new_sum(root: Path, name: str) -> None:
    """Does what a careful forger would do after changing a file."""
    sums = root / "bundle" / "SHA256SUMS"
    digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
    sums.write_text(re.sub(rf"^\w+(  {re.escape(name)})$", rf"{digest}\1", sums.read_text(), flags=re.MULTILINE))


def edit_manifest(root: Path, edit: Callable[[dict[str, object]], None]) -> None:
    path = root / "bundle" / "bundle.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


@needs_uv
def test_it_installs_without_a_network_and_without_a_cache(unpacked: Path) -> None:
    if subprocess.run([*NO_NETWORK, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine allows no network namespaces")
    done = install(unpacked, network=False)
    assert done.returncode == 0, done.stderr
    program = [str(unpacked / ".venv" / "bin" / "python"), "-c", "import example; print(example.ANSWER)"]
    assert subprocess.run(program, capture_output=True, text=True).stdout == "42\n"
    assert install(unpacked, network=False).stderr == ""


def test_its_sums_name_every_file_and_nothing_that_git_does_not_know(unpacked: Path) -> None:
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert files == {
        "cli/install.py",
        "requirements/local.lock",
        "requirements/bootstrap.lock",
        "bundle/bundle.json",
        "bundle/sbom.cdx.json",
        "bundle/SHA256SUMS",
        "bundle/wheels/example-1.0-py3-none-any.whl",
        "bundle/wheels/older-1.0-py3-none-any.whl",  # the other machine's Python may be older than this one
        "bundle/wheels/uv-1.0-py3-none-any.whl",
    }
    listed = (unpacked / "bundle" / "SHA256SUMS").read_text().splitlines()
    assert {line.partition("  ")[2] for line in listed} == files - {"bundle/SHA256SUMS"}
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "bundle/SHA256SUMS"], cwd=unpacked)
    assert checked.returncode == 0


def test_the_bill_of_materials_is_valid_cyclonedx(unpacked: Path) -> None:
    text = (unpacked / "bundle" / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {one["name"]: one for one in json.loads(text)["components"]}
    wheel = unpacked / "bundle" / "wheels" / "example-1.0-py3-none-any.whl"
    assert components["example"]["hashes"][0]["content"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert components["example"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]


@pytest.mark.parametrize("name", ["bundle/wheels/example-1.0-py3-none-any.whl", "requirements/local.lock"])
def test_a_damaged_file_is_named(unpacked: Path, name: str) -> None:
    change(unpacked / name)
    assert refused(unpacked).startswith(f"artstore: the bundle cannot be installed: {name} is damaged or was changed;")


def test_missing_files_are_named(unpacked: Path) -> None:
    (unpacked / "bundle" / "wheels" / "example-1.0-py3-none-any.whl").unlink()
    assert "bundle/wheels/example-1.0-py3-none-any.whl: No such file or directory" in refused(unpacked)
    (unpacked / "bundle" / "SHA256SUMS").unlink()
    assert "bundle/SHA256SUMS: No such file or directory" in refused(unpacked)
    (unpacked / "bundle" / "bundle.json").write_text("{")
    assert "bundle/bundle.json is missing or damaged" in refused(unpacked)


@needs_uv
@pytest.mark.parametrize("package", ["example", "uv"])
def test_a_wheel_that_was_exchanged_together_with_its_sum_is_refused_by_the_lock(unpacked: Path, package: str) -> None:
    name = f"bundle/wheels/{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(unpacked / name, "a") as archive:
        archive.writestr("example_evil.pth", "import os")
    state_new_sum(unpacked, name)
    said = refused(unpacked)
    if package == "example":
        assert "Hash mismatch for `example==1.0`" in said
    else:
        assert "the hash of uv-1.0-py3-none-any.whl is not one of requirements/bootstrap.lock" in said


def test_another_machine_is_refused(unpacked: Path) -> None:
    edit_manifest(unpacked, lambda manifest: manifest.update(machine="linux-riscv64-glibc"))
    assert "it was made for linux-riscv64-glibc, and this machine is linux-" in refused(unpacked)


def test_another_python_is_refused_even_under_the_right_name(unpacked: Path) -> None:
    edit_manifest(unpacked, lambda manifest: manifest.update(pythons=["3.99"]))
    wanted = f"it has wheels for Python 3.99, and this machine has {sys.version_info.major}.{sys.version_info.minor}."
    assert wanted in refused(unpacked)
    programs = unpacked.parent / "programs"
    programs.mkdir()
    (programs / "python3.99").symlink_to(os.path.realpath(sys.executable))
    assert wanted in refused(unpacked)


def test_what_the_bundle_does_not_hold_and_a_missing_bundle_are_refused(unpacked: Path) -> None:
    program = [os.path.realpath(sys.executable), str(unpacked / "cli" / "install.py")]
    done = subprocess.run([*program, "test"], capture_output=True, text=True)
    assert "`./artstore test` needs others" in done.stderr
    shutil.rmtree(unpacked / "bundle")
    done = subprocess.run([*program, "local", "--offline"], capture_output=True, text=True)
    assert done.stderr == "artstore: --offline needs an unpacked bundle, and there is no folder bundle/ here\n"


def test_no_lock_names_the_host_of_a_registry() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        assert not re.search(r"https?:|index-url|find-links", lock.read_text()), lock.name


def test_the_images_of_others_are_known() -> None:
    names = images_of(ROOT)
    assert {name.partition(":")[0] for name in names} >= {"python", "postgres", "redis", "caddy", "chrislusf/seaweedfs"}
    assert all(":" in name for name in names)
