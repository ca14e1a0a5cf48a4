"""Pages of 100 among many files: `python -m bench.search [FILES] [ROUNDS]`, a whole fleet, one request at a time.

The rows are written by SQL, and no element has the bytes. Each class of searches is asked with different words in turn. The CPU
of a page is that of query and PostgreSQL, which says more than its time when the machine has other work.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from support.fleet import Fleet, running_fleet

from artstore.testing.many_files import COMMON, fill_catalog, rare_words

SAMPLES = 50_000
REQUESTS = 20
"""Requests of each class in each round."""
TARGET_MS = 50

Ask = Callable[[], dict[str, Any]]


class Took(NamedTuple):
    wall_ms: float
    cpu_ms: float


def classes(chosen: random.Random, names: int) -> dict[str, Ask]:
    rare = rare_words()
    return {
        "all, newest first": dict,
        "sort=updated_at": lambda: {"sort": chosen.choice(["updated_at", "-updated_at"])},
        "sort=filename": lambda: {"sort": chosen.choice(["filename", "-filename"])},
        "owner": lambda: {"owner": f"owner-{chosen.randrange(50)}"},
        "type, sizes": lambda: {"content_type": "image/jpeg", "size_min": chosen.randrange(2**31)},
        "tag, frequent": lambda: {"tag": chosen.choice(COMMON)},
        "tag, rare": lambda: {"tag": chosen.choice(rare)},
        "metadata": lambda: {"metadata.number": str(chosen.randrange(names))},
        "q, frequent": lambda: {"q": chosen.choice(COMMON)},
        "q, two frequent": lambda: {"q": " ".join(chosen.sample(COMMON, 2))},
        "q, frequent and excluded": lambda: {"q": "{} -{}".format(*chosen.sample(COMMON, 2))},
        "q, a phrase": lambda: {"q": '"{} {}"'.format(*chosen.sample(COMMON, 2))},
        "q, middle": lambda: {"q": rare[chosen.randrange(100)]},
        "q, rare": lambda: {"q": chosen.choice(rare)},
        "q, rare and frequent": lambda: {"q": f"{chosen.choice(rare)} {chosen.choice(COMMON)}"},
        "q, beginning of a word": lambda: {"q": chosen.choice(COMMON)[:4]},
        "q, nothing": lambda: {"q": "zzzz" + str(chosen.randrange(10**6))},
        "q, tag and owner": lambda: {
            "q": "pdf",
            "tag": chosen.choice(COMMON),
            "owner": f"owner-{chosen.randrange(50)}",
        },
        "filename, frequent": lambda: {"filename": chosen.choice(COMMON)[1:]},
        "filename, rare": lambda: {"filename": f"№{chosen.randrange(names)}."},
        "filename, nothing": lambda: {"filename": "zzzz" + str(chosen.randrange(10**6))},
        "q, sort=filename": lambda: {"q": chosen.choice(COMMON), "sort": "filename"},
    }


def main(files: int = 1_000_000, rounds: int = 3) -> None:
    with running_fleet() as fleet:
        began_s = time.monotonic()
        asyncio.run(fill_catalog(fleet.postgres.url(fleet.database), files, SAMPLES))
        print(f"{files} files written in {time.monotonic() - began_s:.0f} s", flush=True)
        chosen = random.Random(1)
        took: dict[str, list[Took]] = {}
        with httpx.Client(headers={"authorization": f"Bearer {fleet.token()}"}, timeout=60) as client:
            for number in range(rounds + 1):
                for name, ask in classes(chosen, min(files, SAMPLES)).items():
                    of_class = list(_ask(client, fleet, ask, REQUESTS))
                    if number:  # the first round reads the tables from disk
                        took.setdefault(name, []).extend(of_class)
            _print(took)
            for parameters in ({}, {"q": COMMON[0]}, {"owner": "owner-7"}):
                (one,) = _ask(client, fleet, lambda given=parameters: {**given, "count": "true"}, 1)  # type: ignore[misc]
                print(f"count=true {parameters}: {one.wall_ms:.0f} ms, CPU {one.cpu_ms:.0f} ms")


def _ask(client: httpx.Client, fleet: Fleet, ask: Ask, requests: int) -> Iterator[Took]:
    for _ in range(requests):
        parameters = ask()
        before_ms, began_s = _cpu_ms(fleet), time.perf_counter()
        answer = client.get(fleet.url("query") + "/api/files", params=parameters)
        wall_ms = (time.perf_counter() - began_s) * 1000
        yield Took(wall_ms, _cpu_ms(fleet) - before_ms)
        assert answer.status_code == 200, (parameters, answer.text)


def _cpu_ms(fleet: Fleet) -> float:
    """CPU time of query and the servers of PostgreSQL; that of its parallel workers is lost when they end."""
    postgres = fleet.postgres.process.pid
    backends = map(int, Path(f"/proc/{postgres}/task/{postgres}/children").read_text().split())
    return sum(map(_of_process_ms, [fleet.processes["query"].pid, *backends]))


def _of_process_ms(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _print(took: dict[str, list[Took]]) -> None:
    print(f"{'':<28}{'p50':>8}{'p95':>8}{'max':>8}{'CPU p50':>10}{'p95':>8}  ms")
    everything: list[Took] = []
    for name, of_class in [*took.items(), ("all classes", everything)]:
        wall, cpu = [one.wall_ms for one in of_class], [one.cpu_ms for one in of_class]
        mark = "" if _p95(wall) <= TARGET_MS else f"  above {TARGET_MS}"
        print(
            f"{name:<28}{statistics.median(wall):8.1f}{_p95(wall):8.1f}{max(wall):8.1f}"
            f"{statistics.median(cpu):10.1f}{_p95(cpu):8.1f}{mark}",
            flush=True,
        )
        everything.extend(of_class)


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
