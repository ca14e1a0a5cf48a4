"""`bundle`: everything that a machine without a network needs, in one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import CommandError, UsageError
from ..repository import ROOT
from .local import refuse


def bundle(
    target: Annotated[Path, typer.Argument(metavar="OUT.tar", help="The file to write.")],
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="3.N", help="Python of the other machine; repeatable.  [default: the one here]"),
    ] = None,
    containers: Annotated[
        bool, typer.Option("--containers", help="Also the wheels that the images are built with.")
    ] = False,
    images: Annotated[
        bool, typer.Option("--images", help="These, and the images of others, which docker must have here.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Collect source code, wheels, hashes and a bill of materials for a machine without a network, of this platform.

    There: tar -xf OUT.tar && cd artstore && ./artstore up --offline
    """
    import json
    import re
    from dataclasses import asdict

    from ..bundle.bundle import Options, current_python, make_bundle

    pythons = python or [current_python()]
    try:
        if wrong := [one for one in pythons if not re.fullmatch(r"3\.1[1-9]", one)]:
            raise UsageError(f"--python {wrong[0]}: ArtStore runs on Python 3.11 and later, as in --python 3.13")
        options = Options(list(dict.fromkeys(pythons)), containers, images)
        made = make_bundle(ROOT, target.absolute(), options, lambda text: print(text, file=sys.stderr))
    except CommandError as error:
        raise refuse(error, as_json) from None
    size = target.stat().st_size
    if as_json:
        print(json.dumps({"bundle": str(target.absolute()), "size_bytes": size, **asdict(made)}))
    else:
        print(f"{target}: {size / 2**20:.0f} MiB for {made.machine}, Python {', '.join(made.pythons)}")


def add_to(app: typer.Typer) -> None:
    app.command("bundle")(bundle)
