"""The package that a user installs: the wheel, its types, its README, and a class for each error."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

import artstore.errors
import artstore_client
from artstore_client import Client

FOLDER = Path(__file__).resolve().parents[1]
OF_ELEMENTS_ONLY = {"root_refused", "fenced"}
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (FOLDER / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_wheel_is_typed_and_works_with_httpx_alone(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=FOLDER, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (metadata,) = [opened.read(name).decode() for name in names if name.endswith("METADATA")]
    described = Parser().parsestr(metadata)
    assert (described["Name"], described["Version"]) == ("artstore-client", artstore_client.VERSION)
    assert described.get_all("Requires-Dist") == ["httpx<1,>=0.27"]
    assert "artstore_client/py.typed" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"artstore_client"}
    allowed = {"artstore_client", *_closure(tmp_path)}
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); before = set(sys.modules); import artstore_client as a; \
        print(a.__file__); print(*{{name.partition('.')[0] for name in set(sys.modules) - before}})"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    where, loaded = done.stdout.strip().splitlines()
    assert where.startswith(str(wheel))
    assert {name for name in loaded.split() if name not in sys.stdlib_module_names} <= allowed


def _closure(folder: Path) -> set[str]:
    """The modules that httpx itself loads."""
    loads = "import sys, httpx, anyio._backends._asyncio; httpx.AsyncClient()"
    code = f"{loads}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_error_of_the_services_has_a_class() -> None:
    known = artstore_client.errors.BY_CODE
    assert artstore.errors.BY_CODE.keys() - OF_ELEMENTS_ONLY <= known.keys()
    for code, cls in artstore.errors.BY_CODE.items():
        if code not in OF_ELEMENTS_ONLY:
            assert str(known[code].__doc__).startswith(f"{cls.status}: "), code
            assert known[code].__name__ in artstore_client.__all__


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_an_example_of_the_readme_runs(
    number: int, connect: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7 report")
    (tmp_path / "film.mkv").write_bytes(bytes(1 << 20))
    async with connect() as store:
        account = {"address": store.address, **store._credentials}
        record = await store.upload(b"content", filename="example.txt", retention="temporary")
        names: dict[str, Any] = {
            **account,
            "store": store,
            "file_id": record.file_id,
            "artstore_client": artstore_client,
        }
        source = f"async def example():\n{textwrap.indent(EXAMPLES[number], '    ')}"
        exec(compile(source, f"README.md, example {number}", "exec"), names)
        await names["example"]()
