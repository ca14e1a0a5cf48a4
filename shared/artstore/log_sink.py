"""Where log lines go: a bounded queue and a thread that writes to a file descriptor.

A descriptor that is full, slow or without a reader costs log lines and nothing else: `write` never blocks and never raises,
and an exit does not wait for the thread. Lines that were dropped are counted, and reported once when the descriptor works again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TextIO, cast

MAX_QUEUED_LINES = 10_000
MAX_QUEUED_BYTES = 8 << 20
"""Lines beyond either limit are dropped, the newest first: the lines from the beginning of an outage explain it."""
GATHER_S = 0.02
"""Pause after a batch: under load one write then holds many lines."""
RETRY_S = 0.5
BATCH_LINES = 1000
STANDARD_ERROR = 2
LAST_LINES_TIMEOUT_S = 1.0
"""How long an exit waits for the log: a sink that takes no lines must not delay it."""


class LogSink:
    """A text stream for `logging`, `warnings` and tracebacks. Safe to call from any thread and from a finalizer."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, on_recovered: Callable[[int], None] = lambda _: None) -> None:
        """`on_recovered` gets the number of dropped lines; it is called in the sink's thread."""
        self._descriptor = descriptor
        self._on_recovered = on_recovered
        self._lines: SimpleQueue[bytes] = SimpleQueue()  # its put() may be interrupted by itself, a lock may not
        self._queued_bytes = 0
        self._unreported = 0
        self.dropped = 0
        """Lines dropped since the start."""
        self._closing = threading.Event()
        self._drained = threading.Event()
        threading.Thread(target=self._run, name="log-sink", daemon=True).start()

    def write(self, text: str) -> int:
        line = text.encode("utf-8", "backslashreplace")
        if self._lines.qsize() >= MAX_QUEUED_LINES or self._queued_bytes + len(line) > MAX_QUEUED_BYTES:
            self.dropped += 1
            self._unreported += 1
        else:
            self._queued_bytes += len(line)
            self._lines.put(line)
        return len(text)

    def flush(self) -> None:
        """Does nothing: the thread writes as soon as it can."""

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def close(self, timeout_s: float) -> None:
        """Waits until all lines are written, at most `timeout_s`."""
        self._closing.set()
        self._lines.put(b"")
        self._drained.wait(timeout_s)

    def _run(self) -> None:
        while True:
            batch = [self._lines.get()]
            while len(batch) < BATCH_LINES:
                try:
                    batch.append(self._lines.get_nowait())
                except Empty:
                    self._queued_bytes = 0  # threads may have miscounted it: they take no lock
                    break
            self._write_all(b"".join(batch))
            if self._lines.empty():
                if self._unreported:
                    unreported, self._unreported = self._unreported, 0
                    self._on_recovered(unreported)
                elif self._closing.is_set():
                    self._drained.set()
            if not self._closing.is_set():
                time.sleep(GATHER_S)

    def _write_all(self, content: bytes) -> None:
        """Retries until the last byte is out: the queue is bounded, so nothing grows meanwhile."""
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError:  # no space, no reader, a descriptor that does not block: it may be back later
                time.sleep(RETRY_S)


def open_standard_error(on_recovered: Callable[[int], None] = lambda _: None) -> LogSink:
    """The sink on descriptor 2, which also takes over `sys.stdout` and `sys.stderr`.

    A process started without standard streams gets /dev/null for them: else its first socket would be descriptor 2."""
    for descriptor in range(STANDARD_ERROR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sink = LogSink(STANDARD_ERROR, on_recovered)
    sys.stdout = sys.stderr = cast(TextIO, sink)  # all of it that print and tracebacks use
    return sink


def write_last(text: str) -> None:
    """For a process that ends before its log is configured: an exit waits LAST_LINES_TIMEOUT_S at most."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError):  # no standard error, or a stream in memory
        if sys.stderr is not None:
            sys.stderr.write(text)
        return
    # Not through sys.stderr: a thread that is stuck in it would hold its lock against the interpreter's last flush.
    writing = threading.Thread(target=_write_once, args=(descriptor, text.encode()), daemon=True)
    writing.start()
    writing.join(LAST_LINES_TIMEOUT_S)


def _write_once(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, content)
