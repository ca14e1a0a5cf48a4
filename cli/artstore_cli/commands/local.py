"""Commands on this machine's own system and on the source code: up, down, status, test, bench, docs, verify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..command import AsJson
from ..errors import CommandError, ExitCode, UsageError
from ..output import Output
from ..repository import LOCAL_DATA, ROOT

DEFAULT_DATA = ROOT / LOCAL_DATA
NOT_RUNNING = 3
"""Exit code of `status` when nothing runs, as for init scripts."""

Data = Annotated[
    Path, typer.Option("--data", help="The folder with all data, keys and logs.", show_default=".artstore")
]


def add_to(app: typer.Typer) -> None:
    for name, function in COMMANDS.items():
        app.command(name)(function)


def refuse(error: CommandError, as_json: bool = False) -> typer.Exit:
    """Shows the error. Raise what this returns."""
    from ..failures import describe

    failure = describe(error)
    Output(as_json).error(failure.shown())
    return typer.Exit(failure.exit_code)


def up(
    data: Data = DEFAULT_DATA,
    port_base: Annotated[
        int, typer.Option(help="Admin's port; elements +10 +11 +12, ingester +20, query +30, gateway +80.")
    ] = 8000,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Return when the system is ready, with exit code 4 if a part is not; stop it with down."
        ),
    ] = False,
    s3: Annotated[bool, typer.Option("--s3", help="Store the files of se-03 in S3 (SeaweedFS).")] = False,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVICE=N", help="Run N processes of admin, ingester or query on its one port, for more cores."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object when the system has started. Errors too.")
    ] = False,
    offline: Annotated[  # read by cli/install.py, before this program is there
        bool, typer.Option("--offline", help="Install only from the bundle that was unpacked here.")
    ] = False,
) -> None:
    """Start the whole system; Ctrl-C stops it."""
    from functools import partial

    from ..data_folder import DataFolder
    from ..detach import detached
    from ..fleet import parse_scale
    from ..up import up as start

    folder = DataFolder(data.absolute())
    try:
        counts = parse_scale(scale or [])
        run = partial(start, ROOT, folder, port_base=port_base, s3=s3, scale=counts, out=Output(as_json))
    except CommandError as error:
        raise refuse(error, as_json) from None
    raise typer.Exit(detached(lambda started: run(on_started=started), folder.log("artstore")) if detach else run())


def down(data: Data = DEFAULT_DATA, as_json: AsJson = False) -> None:
    """Stop the system that runs on a folder."""
    from ..data_folder import DataFolder
    from ..running import down as stop

    try:
        stopped = stop(DataFolder(data.absolute()))
    except CommandError as error:
        raise refuse(error, as_json) from None
    text = f"stopped {', '.join(stopped)}" if stopped else "nothing was running"
    Output(as_json).item({"stopped": stopped}, text)


def status(
    data: Data = DEFAULT_DATA,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON array with one object for each process.")
    ] = False,
) -> None:
    """Show what runs on a folder; exit code 0 when all of it is ready."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from ..data_folder import DataFolder
    from ..running import status as find_status

    lines = find_status(ROOT, DataFolder(data.absolute()))
    code = NOT_RUNNING if not lines else 0 if all(line.ok for line in lines) else 1
    if as_json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
        raise typer.Exit(code)
    if not lines:
        print(f"nothing runs on {data}")
        raise typer.Exit(code)
    table = Table("part", "state", "process", "address", "own port", box=None)
    for line in lines:
        table.add_row(line.name, line.state, str(line.pid), line.url, str(line.port or ""))
    Console().print(table)
    raise typer.Exit(code)


def check(
    parts: Annotated[
        list[str] | None, typer.Argument(help="Only these parts, for instance storage-element or static.")
    ] = None,
    keyword: Annotated[
        str | None,
        typer.Option(
            "-k", help="Only tests whose names match, as with pytest -k; also checks the types of these parts."
        ),
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", help="Test every fault instead of a sample: `test faults --long`.")
    ] = False,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Run each check with failed tests once more; the second time decides.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the chaos run: the same seed gives the same faults.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="How long `test chaos --long` lasts.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each check, and the totals. Not with -k.")
    ] = False,
) -> None:
    """Run the static checks and all tests."""
    from ..testing import Chaos, test, test_named

    out = Output(as_json)
    try:
        if keyword and as_json:
            raise UsageError("-k shows the output of pytest, which is not JSON", "leave out -k or --json")
        if keyword:
            raise typer.Exit(test_named(ROOT, parts or [], keyword))
        raise typer.Exit(test(ROOT, parts or [], out, long=long, repeat=repeat, chaos=Chaos(seed, minutes)))
    except CommandError as error:
        raise refuse(error, as_json) from None


def measure(
    rounds: Annotated[int | None, typer.Option(min=1, help="Medians are over this many rounds.  [default: 3]")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Of each row on each side.  [default: 8]")] = None,
    big: Annotated[int | None, typer.Option(min=1, help="Size of the big file in MiB.  [default: 1024]")] = None,
    many: Annotated[
        int | None, typer.Option(min=1, help="Small files to store and to read cold, each once.  [default: 30000]")
    ] = None,
    only: Annotated[
        str, typer.Option(help="Measure only rows whose title this pattern finds, as `PUT 4 KiB|c=1$`.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="A first impression in at most two minutes.")] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Measure the disk of this folder; all that is written there is removed.  [default: the system's "
            "temporary folder]"
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write all results to this file, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as one JSON object.")] = False,
) -> None:
    """Measure this checkout beside SeaweedFS on the same disk at equal durability."""
    import tempfile
    from dataclasses import replace

    from ..bench import bench as benchmark

    given = {"rounds": rounds, "seconds": seconds, "big_mib": big, "many": many}
    plan = replace(
        benchmark.QUICK if quick else benchmark.DEFAULT,
        only=only,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    try:
        folder = (data or Path(tempfile.gettempdir())).absolute()
        benchmark.bench(ROOT, plan, folder, output, Output(as_json))
    except CommandError as error:
        raise refuse(error, as_json) from None
    except KeyboardInterrupt:
        raise refuse(CommandError("interrupted", code="interrupted"), as_json) from None


def write_documents(as_json: AsJson = False) -> None:
    """Write the generated documents: docs/settings.md, docs/errors.md, and the list of setting names."""
    from .. import documents

    out = Output(as_json)
    for path in documents.write(ROOT):
        name = str(path.relative_to(ROOT))
        out.item({"path": name}, f"wrote {name}")


def verify_folder(
    folder: Annotated[Path, typer.Argument(help="The folder of an element, or a copy of it. No service needs to run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Check attr.json and hash of each file, and report incomplete files and leftovers. Exit code 1 when there is damage."""
    from ..verify import lines_of, verify

    try:
        verdict = verify(folder)
    except CommandError as error:
        error.exit_code = ExitCode.USAGE
        raise refuse(error, as_json) from None
    print(verdict.as_json().decode() if as_json else "\n".join(lines_of(verdict)))
    raise typer.Exit(0 if verdict.sound else 1)


COMMANDS: dict[str, Callable[..., None]] = {
    "up": up,
    "down": down,
    "status": status,
    "test": check,
    "bench": measure,
    "docs": write_documents,
    "verify": verify_folder,
}
