"""The output of the client commands: tables for people, tab-separated lines for pipes, JSON lines with --json.

Text from elsewhere (names of files, above all) cannot move the cursor, set colours or turn the direction of writing:
`printable` shows such characters as escapes. Results go to standard output, all else to standard error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TextIO

from .errors import ClosedPipe, CommandError, UsageError

UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters of terminals (C0, C1), separators of lines, controls of direction, half characters, tags."""
LEAST_WIDTH = 8
"""The least width of an elastic column; a narrower terminal breaks the lines."""


def printable(text: object) -> str:
    r"""One line that is safe on a terminal: ESC becomes \x1b, a line break \n."""
    return UNSAFE.sub(_escape, str(text))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a local file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(found[0]) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def to_json(value: object) -> str:
    """One line of JSON: readable, and as safe on a terminal as `printable`."""
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
    return UNSAFE.sub(lambda found: "\\u007f" if found[0] == "\x7f" else json.dumps(found[0])[1:-1], text)


def size_text(size_bytes: object) -> str:
    if not isinstance(size_bytes, int):
        return ""
    value, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def time_text(moment: object) -> str:
    """RFC 3339 as local time, to the minute."""
    try:
        return datetime.fromisoformat(str(moment)).astimezone().strftime("%Y-%m-%d %H:%M") if moment else ""
    except ValueError:
        return str(moment)


def plain_text(value: object) -> str:
    """A value of JSON as text: lists by commas, objects as k=v."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={plain_text(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain_text(one) for one in value)
    return str(value)


@dataclass(frozen=True, slots=True)
class Column:
    """A column shows the member `name` of each item. `human` formats it on a terminal; pipes get the plain value."""

    title: str
    name: str
    human: Callable[[Any], str] = plain_text
    right: bool = False
    elastic: bool = False
    """Shortened when the terminal is too narrow. Other columns hold what people copy, or are short."""


def fit(widths: list[int], elastic: Sequence[bool], available: int) -> None:
    """Narrows the elastic columns, the widest first, until all fit or none can give more."""
    while sum(widths) > available:
        at = max((at for at, can in enumerate(elastic) if can), key=lambda at: widths[at], default=None)
        if at is None or widths[at] <= LEAST_WIDTH:
            return
        widths[at] -= 1


class Output:
    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.on_terminal = sys.stdout.isatty() and not as_json
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")

    @property
    def interactive(self) -> bool:
        """True if a person can read progress and answer questions."""
        return not self.as_json and sys.stderr.isatty() and sys.stdin.isatty()

    def line(self, text: str) -> None:
        """One line of a result. Text from elsewhere must be `printable`."""
        self._write(sys.stdout, text + "\n")

    def progress(self, text: str) -> None:
        """A line on the way to the result; programs do not get it."""
        if not self.as_json:
            self.line(text)

    def note(self, text: str) -> None:
        """A remark for people on standard error."""
        if not self.as_json:
            self._write(sys.stderr, text + "\n")

    def warning(self, text: str, code: str) -> None:
        """A remark on a result that is correct but not whole, for programs too."""
        shown = (
            to_json({"warning": {"code": code, "message": text}}) if self.as_json else f"artstore: {printable(text)}"
        )
        self._write(sys.stderr, shown + "\n")

    def item(self, value: object, text: str) -> None:
        """One result: a line of JSON, or `text`."""
        self.line(to_json(value) if self.as_json else text)

    def details(self, value: Mapping[str, Any], human: Mapping[str, Callable[[Any], str]] | None = None) -> None:
        """One object: JSON, or a line for each of its members."""
        if self.as_json:
            return self.line(to_json(value))
        width = max((len(name) for name in value), default=0)
        for name, one in value.items():
            text = (human or {}).get(name, plain_text)(one) if self.on_terminal else plain_text(one)
            self.line(f"{printable(name):<{width}}  {printable(text)}")
        return None

    def table(self, items: Iterable[Mapping[str, Any]], columns: Sequence[Column], header: bool = True) -> None:
        """Many objects: lines of JSON, a table as wide as the terminal, or tab-separated lines for a pipe."""
        if self.as_json:
            self._write(sys.stdout, "".join(f"{to_json(item)}\n" for item in items))
        elif self.on_terminal:
            self._terminal_table(items, columns, header)
        else:
            lines = ("\t".join(printable(plain_text(item.get(one.name))) for one in columns) for item in items)
            self._write(sys.stdout, "".join(f"{line}\n" for line in lines))

    def _terminal_table(self, items: Iterable[Mapping[str, Any]], columns: Sequence[Column], header: bool) -> None:
        from rich.cells import cell_len, set_cell_size

        rows = [[printable(one.human(item.get(one.name))) for one in columns] for item in items]
        rows = [[one.title for one in columns], *rows] if header else rows
        widths = [max((cell_len(row[at]) for row in rows), default=0) for at in range(len(columns))]
        fit(widths, [one.elastic for one in columns], shutil.get_terminal_size().columns - 2 * (len(columns) - 1))
        for row in rows:
            cells = []
            for text, width, column in zip(row, widths, columns, strict=True):
                cut = text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
                space = " " * (width - cell_len(cut))
                cells.append(space + cut if column.right else cut + space)
            self.line("  ".join(cells).rstrip())

    def error(self, failure: Mapping[str, Any]) -> None:
        """A failure: a line of JSON {"error": …}, or `artstore: …` with its hint. `failure` has at least `message`."""
        if self.as_json:
            return self._write(
                sys.stderr, to_json({"error": {k: v for k, v in failure.items() if v is not None}}) + "\n"
            )
        place = f"{printable(failure['path'])}: " if failure.get("path") else ""
        self._write(sys.stderr, f"artstore: {place}{printable(failure['message'])}\n")
        if failure.get("hint"):
            self._write(sys.stderr, f"  {printable(failure['hint'])}\n")
        return None

    def confirm(self, question: str, yes: bool) -> None:
        """Returns when `yes` is given or the person agrees. Raises UsageError where no user can be asked."""
        if yes:
            return
        if not self.interactive:
            raise UsageError("this needs a confirmation, and there is no terminal to ask on", "add --yes")
        self._write(sys.stderr, f"{question} [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("not confirmed; nothing was changed", code="not_confirmed")

    def _write(self, stream: TextIO, text: str) -> None:
        """Raises ClosedPipe."""
        try:
            stream.write(text)
            stream.flush()
        except BrokenPipeError:
            self.silence()
            raise ClosedPipe from None

    def silence(self) -> None:
        """The reader has ended. The interpreter flushes the streams once more when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
