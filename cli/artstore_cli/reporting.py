"""What `up` shows while it works: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from .system import Died


class Unbroken(Console):
    """Goes on in silence when nobody reads any more (`up --detach | head`): no reason to stop a system."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Progress:
    """Implements system.Reporter. The spinner turns only when `waiting` is called: no thread of its own."""

    def __init__(self, console: Console, errors: Console) -> None:
        self.console = console
        self.errors = errors
        self._live: Live | None = None

    def waiting(self, names: Sequence[str]) -> None:
        if not self.console.is_terminal:
            return
        if not names:
            self.end()
            return
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
            self._spinner = Spinner("dots")
        self._spinner.update(text=f"waiting for {', '.join(names)}")
        self._live.update(self._spinner, refresh=True)

    def ready(self, name: str, after_s: float) -> None:
        self.say(f"[green]ready[/green]     {name:<12} {after_s:5.1f} s")

    def restarting(self, death: Died) -> None:
        self.say(f"[red]died[/red]      {death}; starting it again. Its last lines:")
        self.last_lines(death)

    def stopping(self, names: Sequence[str]) -> None:
        self.end()
        self.say(f"stopping  {', '.join(names)}")

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def error(self, text: str) -> None:
        self.end()
        self.errors.print(f"artstore: {text}", style="red", highlight=False, markup=False, soft_wrap=True)

    def last_lines(self, death: Died) -> None:
        for line in death.last_lines:
            self.errors.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Takes the spinner away."""
        if self._live is not None:
            self._live.stop()
            self._live = None
