"""The output of log lines: a bounded queue, and a thread that writes to a file descriptor.

If the descriptor is full, slow or has no reader, only log lines are lost: `write` never blocks or raises, and
an exit does not wait for the thread. Dropped lines are counted, and reported once when the descriptor works
again.
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
"""New lines beyond either limit are dropped, because the first lines of an outage explain it."""
GATHER_S = 0.02
"""Pause after a batch, so that under load one write holds many lines."""
RETRY_S = 0.5
BATCH_LINES = 1000
STANDARD_ERROR = 2
LAST_LINES_TIMEOUT_S = 1.0
"""How long an exit waits for the last lines; a blocked sink must not delay it."""


class LogSink:
    """A text stream for `logging`, `warnings` and tracebacks. Safe to call from any thread and from a
    finalizer."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, on_recovered: Callable[[int], None] = lambda _: None) -> None:
        """`on_recovered` is called in the sink's thread with the number of dropped lines."""
        self._descriptor = descriptor
        self._on_recovered = on_recovered
        self._lines: SimpleQueue[bytes] = SimpleQueue()  # its put() is reentrant, which a lock is not
        self._queued_bytes = 0
        self._unreported = 0
        self.dropped = 0
        """Lines dropped since the start."""
        self._closing = threading.Event()
        self._drained = threading.Event()
        threading.Thread(target=self._run, name="log-sink", daemon=True).start()

    def write(self, text: str) -> int:
        self.write_bytes(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def write_bytes(self, line: bytes) -> None:
        if self._lines.qsize() >= MAX_QUEUED_LINES or self._queued_bytes + len(line) > MAX_QUEUED_BYTES:
            self.dropped += 1
            self._unreported += 1
        else:
            self._queued_bytes += len(line)
            self._lines.put(line)

    def flush(self) -> None:
        """Does nothing: the thread writes without delay."""

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def close(self, timeout_s: float) -> None:
        """Waits at most `timeout_s` until all lines are written."""
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
                    self._queued_bytes = 0  # threads update it without a lock, so it may have drifted
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
        """Retries until the last byte is written; the queue is bounded meanwhile."""
        left = memoryview(content)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError:  # no space, no reader or a non-blocking descriptor: retry
                time.sleep(RETRY_S)


def open_standard_error(on_recovered: Callable[[int], None] = lambda _: None) -> LogSink:
    """The sink on descriptor 2, which also replaces `sys.stdout` and `sys.stderr`.

    A process that was started without standard streams gets /dev/null for them; else its first socket would
    become descriptor 2.
    """
    for descriptor in range(STANDARD_ERROR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # uses the lowest free descriptor, which is this one
    sink = LogSink(STANDARD_ERROR, on_recovered)
    sys.stdout = sys.stderr = cast(TextIO, sink)  # it has the methods that print and tracebacks use
    return sink


def write_last(text: str) -> None:
    """Writes to standard error before the log is configured. Returns after LAST_LINES_TIMEOUT_S at most."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError):  # no standard error, or a stream in memory
        if sys.stderr is not None:
            sys.stderr.write(text)
        return
    # Not through sys.stderr: a thread blocked in it would hold its lock, and the interpreter's final flush would wait for it.
    writing = threading.Thread(target=_write_once, args=(descriptor, text.encode()), daemon=True)
    writing.start()
    writing.join(LAST_LINES_TIMEOUT_S)


def _write_once(descriptor: int, content: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, content)
