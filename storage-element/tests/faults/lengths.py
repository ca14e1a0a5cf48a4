"""Short or long: every test run includes the proofs in a short form; ARTSTORE_FAULTS=long runs them completely."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random
from typing import TypeVar

LONG = os.environ.get("ARTSTORE_FAULTS") == "long"
PROCESSES = 2
MOST_SHOWN = 8
MOST_SHOWN_BYTES = 3000

Item = TypeVar("Item")
Result = TypeVar("Result")


def chosen(items: Sequence[Item], short: int, seed: int = 1) -> Sequence[Item]:
    """All of them in the long form; `short` of them, always the same ones, in the short form."""
    return items if LONG or len(items) <= short else Random(seed).sample(items, short)


def in_processes(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """In fresh processes without threads, so that `function` may fork. One AssertionError reports all failures."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        running = {pool.submit(function, item): item for item in items}
        failed = [_told(item, error) for one, item in running.items() if (error := one.exception())]
    assert not failed, f"{len(failed)} of {len(running)} cases failed\n" + "\n".join(failed[:MOST_SHOWN])
    return [one.result() for one in running]


def _told(item: object, error: BaseException) -> str:
    return f"{str(item)[:MOST_SHOWN_BYTES]}: {error!r}\n{str(error.__cause__)[-MOST_SHOWN_BYTES:]}"
