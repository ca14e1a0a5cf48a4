"""The results: medians over the rounds, as a table for people and as a JSON document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import Any

from .load import BOTTLENECK_CPU, Outcome

OURS, THEIRS = "ours", "theirs"
SIDES = (OURS, THEIRS)
QUIET_CPU = 0.1
"""Up to this share of a core used by other programs, the machine counts as quiet."""
HEADINGS = (
    *("operation", "size", "c", "ours", "SeaweedFS", "ratio", "p50 ms", "theirs", "p99 ms", "theirs"),
    *("CPU ms/op", "theirs", "errors", "theirs"),
)
TEXT_COLUMNS = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of load on one side."""

    outcome: Outcome
    cpu_s: float
    """CPU of all processes of the side."""
    other_cpu: float
    """Share of a core that other programs used in the meantime."""

    @property
    def cpu_ms(self) -> float | None:
        """Per operation; None when none succeeded."""
        return self.cpu_s * 1e3 / self.outcome.requests if self.outcome.requests else None

    def __str__(self) -> str:
        seen = self.outcome
        unit = "/s" if seen.p50_ms is not None else " MB/s"
        return f"{_number(seen.rate)}{unit}" + (f", {seen.errors} errors" if seen.errors else "")


@dataclass(frozen=True, slots=True)
class Result:
    """The samples of one row."""

    operation: str
    size: str
    concurrency: int
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def median(self, side: str, value: Callable[[Sample], float | None]) -> float | None:
        known = [each for sample in self.samples[side] if (each := value(sample)) is not None]
        return median(known) if known else None

    @property
    def ratio(self) -> float | None:
        ours, theirs = (self.median(side, lambda sample: sample.outcome.rate) for side in SIDES)
        return ours / theirs if ours is not None and theirs else None

    @property
    def unit(self) -> str:
        is_rate = any(sample.outcome.p50_ms is not None for sample in self.samples[OURS])
        return "/s" if is_rate else "MB/s"

    def cells(self) -> list[str]:
        rates, p50, p99, cpu = (
            [self.median(side, value) for side in SIDES]
            for value in (
                lambda sample: sample.outcome.rate,
                lambda sample: sample.outcome.p50_ms,
                lambda sample: sample.outcome.p99_ms,
                lambda sample: sample.cpu_ms,
            )
        )
        errors = [sum(sample.outcome.errors for sample in self.samples[side]) for side in SIDES]
        return [
            *(self.operation, self.size, str(self.concurrency)),
            *(f"{_number(rate)} {self.unit}" for rate in rates),
            "–" if self.ratio is None else f"{self.ratio:.2f}",
            *map(_number, (*p50, *p99, *cpu)),
            *map(str, errors),
        ]

    def document(self) -> dict[str, Any]:
        def of(side: str) -> dict[str, Any]:
            return {
                "rate": self.median(side, lambda sample: sample.outcome.rate),
                "p50_ms": self.median(side, lambda sample: sample.outcome.p50_ms),
                "p99_ms": self.median(side, lambda sample: sample.outcome.p99_ms),
                "cpu_ms": self.median(side, lambda sample: sample.cpu_ms),
                "errors": sum(sample.outcome.errors for sample in self.samples[side]),
                "rounds": [asdict(sample) for sample in self.samples[side]],
            }

        named = {"operation": self.operation, "size": self.size, "concurrency": self.concurrency, "unit": self.unit}
        return {**named, "ratio": self.ratio, OURS: of(OURS), THEIRS: of(THEIRS)}


Memory = dict[str, dict[str, float]]
"""MB by side and by group of processes."""


@dataclass(slots=True)
class Report:
    plan: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, Any]
    results: dict[tuple[str, str, int], Result] = field(default_factory=dict)
    idle_cpu: float = 0.0
    """Share of a core that our suite uses without requests."""
    memory_before_mb: Memory = field(default_factory=dict)
    memory_after_mb: Memory = field(default_factory=dict)

    def add(self, key: tuple[str, str, int], side: str, sample: Sample) -> None:
        self.results.setdefault(key, Result(*key)).samples[side].append(sample)

    def samples(self) -> list[Sample]:
        return [each for result in self.results.values() for side in SIDES for each in result.samples[side]]

    def document(self) -> dict[str, Any]:
        return {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "plan": self.plan,
            "machine": self.machine,
            "versions": self.versions,
            "generator": "wrk" if self.versions["wrk"] else "own",
            "other_cpu": {"median": self._other_cpu(median), "max": self._other_cpu(max)},
            "idle_cpu": self.idle_cpu,
            "memory_mb": {"before": self.memory_before_mb, "after": self.memory_after_mb},
            "rows": [result.document() for result in self.results.values()],
        }

    def lines(self) -> list[str]:
        table = [list(HEADINGS), *(result.cells() for result in self.results.values())]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
        return ["", *(_line(cells, widths) for cells in table), "", *self._notes()]

    def _notes(self) -> list[str]:
        quiet = "quiet" if self._other_cpu(median) <= QUIET_CPU else "busy: compare ratios and CPU, not rates"
        durability = "Each PUT is on disk before its answer (theirs: ?fsync=true); CPU is of all processes of a side."
        return [
            f"Medians of {self.plan['rounds']} interleaved rounds of {self.plan['seconds']:g} s. {durability}",
            *(self._memory_line(side) for side in self.memory_after_mb),
            f"idle CPU      ArtStore used {self.idle_cpu:.1%} of a core without requests",
            f"machine       {self.machine['cores']} cores of {self.machine['cpu']}, {self.machine['file_system']}; "
            f"load before {self.machine['load_before']}; other programs used {self._other_cpu(median):.0%} of a core "
            f"(at most {self._other_cpu(max):.0%}): {quiet}",
            *self._generator_lines(),
        ]

    def _memory_line(self, side: str) -> str:
        before, after = self.memory_before_mb[side], self.memory_after_mb[side]
        groups = ", ".join(f"{name} {before[name]:.0f} → {after[name]:.0f}" for name in after)
        total = f"{sum(before.values()):.0f} → {sum(after.values()):.0f} MB"
        return f"memory (PSS)  {side}: {total}" + (f" ({groups})" if len(after) > 1 else "")

    def _generator_lines(self) -> list[str]:
        name = self.versions["wrk"] or "ArtStore's own generator (wrk, if installed, takes less of the machine)"
        limited = [
            f"{' '.join(map(str, key[:2]))} c={key[2]} ({side})"
            for key, result in self.results.items()
            for side in SIDES
            if any(sample.outcome.generator_cpu >= BOTTLENECK_CPU for sample in result.samples[side])
        ]
        lines = [f"load from     {name}, on the same cores"]
        if limited:
            lines.append(f"The load generator used a whole core and may have been the bottleneck: {'; '.join(limited)}")
        return lines

    def _other_cpu(self, choose: Callable[[Sequence[float]], float]) -> float:
        return choose([sample.other_cpu for sample in self.samples()] or [0.0])


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [
        cell.ljust(width) if column < TEXT_COLUMNS else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()
