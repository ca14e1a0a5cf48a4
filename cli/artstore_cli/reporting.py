"""The output of `up`: a spinner on a terminal, plain lines elsewhere, JSON for programs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner

from .errors import ClosedPipe, CommandError
from .failures import describe
from .output import Output
from .system import MAX_DEATHS, Death

SAY_WAITING_EVERY_S = 10.0
"""Without a terminal, a waiting start prints a line this often."""


class PipeSafeConsole(Console):
    """Continues silently when its reader has ended (`up --detach | head`)."""

    def on_broken_pipe(self) -> None:
        self.quiet = True

    def say(self, text: str, **options: Any) -> None:
        """Print a line. It is lost when the disk is full."""
        with contextlib.suppress(OSError):
            self.print(text, highlight=False, soft_wrap=True, **options)


class Progress:
    """Implements system.Reporter. Has no thread: the spinner turns only when `waiting` is called."""

    def __init__(self, console: PipeSafeConsole, errors: PipeSafeConsole) -> None:
        self.console = console
        self.errors = errors
        self._live: Live | None = None
        self._said_s: float | None = None

    def waiting(self, parts: Sequence[str]) -> None:
        """`parts`: the parts that are not ready, with their reasons."""
        if not self.console.is_terminal:
            self._say_waiting(parts)
            return
        if not parts:
            self.end()
            return
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
            self._spinner = Spinner("dots")
        self._spinner.update(text=escape(f"waiting for {', '.join(parts)}"))
        self._live.update(self._spinner, refresh=True)

    def _say_waiting(self, parts: Sequence[str]) -> None:
        now_s = time.monotonic()
        if self._said_s is None or not parts:
            self._said_s = now_s
        elif now_s - self._said_s >= SAY_WAITING_EVERY_S:
            self._said_s = now_s
            self.say(f"waiting   {escape(', '.join(parts))}")

    def ready(self, name: str, after_s: float) -> None:
        self.say(f"[green]ready[/green]     {name:<12} {after_s:5.1f} s")

    def restarting(self, death: Death) -> None:
        again = f"starting it again in {death.pause_s:.0f} s"
        if death.times > MAX_DEATHS:
            again += f" (it died {death.times} times)"
        self.say(f"[red]died[/red]      {escape(str(death))}; {again}.{' Its last lines:' if death.last_lines else ''}")
        for line in death.last_lines:
            self.errors.say(f"    {line}", markup=False)

    def not_ready(self, parts: Sequence[str]) -> None:
        self.end()
        self.errors.say(f"artstore: started, but not ready: {', '.join(parts)}", style="yellow", markup=False)

    def stopping(self, names: Sequence[str]) -> None:
        self.end()
        self.say(f"stopping  {', '.join(names)}")

    def warning(self, text: str) -> None:
        self.errors.say(f"artstore: {text}", style="yellow", markup=False)

    def say(self, text: str) -> None:
        self.console.say(text)

    def started(self, text: str, document: Mapping[str, Any]) -> None:
        """The system runs. `document`: the same for programs."""
        if not document["not_ready"]:
            self.say(text)

    def error(self, error: CommandError) -> None:
        self.end()
        self.errors.say(f"artstore: {error}", style="red", markup=False)

    def end(self) -> None:
        """Remove the spinner."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class JsonProgress(Progress):
    """One object on standard output when the system has started; warnings and errors on standard error."""

    def __init__(self, out: Output) -> None:
        super().__init__(PipeSafeConsole(quiet=True), PipeSafeConsole(quiet=True, stderr=True))
        self._out = out

    def restarting(self, death: Death) -> None:
        self.warning(f"{death}; starting it again in {death.pause_s:.0f} s", "restarted")

    def not_ready(self, parts: Sequence[str]) -> None:
        self.warning(f"started, but not ready: {', '.join(parts)}", "not_ready")

    def warning(self, text: str, code: str = "warning") -> None:
        with contextlib.suppress(OSError, ClosedPipe):
            self._out.warning(text, code)

    def started(self, text: str, document: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError, ClosedPipe):
            self._out.item(document, text)

    def error(self, error: CommandError) -> None:
        with contextlib.suppress(OSError, ClosedPipe):
            self._out.error(describe(error).shown())
