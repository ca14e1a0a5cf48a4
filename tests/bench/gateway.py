"""The cost of the gateway: `python -m bench.gateway DATA [ROUNDS] [MIB]`, on a system that runs (needs `wrk`).

Each load goes straight to the service and through the gateway in turn, for a second, in each round. The CPU is that of
all processes of the system, and that of the gateway among it; the lower quartile is the least disturbed by other programs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from artstore_cli.bench.load import NAME, Requests, Transfer, run
from artstore_cli.bench.machine import tree
from artstore_cli.bench.sides import call, send
from artstore_cli.data_folder import GATEWAY_OFFSET, DataFolder, find_record
from artstore_cli.fleet import INGESTER_OFFSET, QUERY_OFFSET

CONCURRENCY = 16
UPLOAD = "/api/files/upload?retention=temporary&filename="


def cpu_us(pids: Iterable[int]) -> float:
    """CPU time of all threads that run now. A process that ended counts no more."""
    used_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            used_ns += int(task.read_text().split()[0])
    return used_ns / 1e3


def quartile(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 4]


def main(data: Path, rounds: int, mib: int) -> None:
    folder = DataFolder(data)
    record = find_record(folder)
    if record is None:
        raise SystemExit(f"nothing runs on {data}")
    base, gateway = record.port_base, record.processes["gateway"].pid
    services = [pid for pid in tree(record.launcher.pid) if pid != gateway]
    administrator = json.loads((folder.keys / "admin-client.json").read_text())
    token = call(base, "POST", "/api/auth/token", body=administrator)["access_token"]
    account = {"name": "bench", "role": "USER", "rate_per_minute": 600_000}
    client = call(base, "POST", "/api/service-accounts", body=account, token=token)
    login = {name: client[name] for name in ("client_id", "client_secret")}
    token = call(base, "POST", "/api/auth/token", body=login)["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        large = Path(scratch) / "large"
        large.write_bytes(os.urandom(1 << 20) * mib)
        small_id, large_id = (
            json.loads(send(base + INGESTER_OFFSET, "POST", UPLOAD + "a", content, headers))["file_id"]
            for content in (os.urandom(4096), large.read_bytes())
        )
        path, size = f"/api/files/{large_id}/content", mib << 20
        rows: dict[str, Callable[[int], Requests | Transfer]] = {
            "GET 4 KiB": lambda port: Requests("GET", port, f"/api/files/{small_id}/content", headers),
            "attributes": lambda port: Requests("GET", port, f"/api/files/{small_id}", headers),
            "PUT 4 KiB": lambda port: Requests("POST", port, UPLOAD + NAME, headers, 4096),
            f"GET {mib} MiB": lambda port: Transfer("GET", port, path, headers, size),
            f"PUT {mib} MiB": lambda port: Transfer("POST", port, UPLOAD + "a", headers, size, large),
        }
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
        for title, load in rows.items():
            direct = base + (INGESTER_OFFSET if title.startswith("PUT") else QUERY_OFFSET)
            ways = {"direct": direct, "gateway": base + GATEWAY_OFFSET}
            seen: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
            for number in range(rounds):
                for way, port in sorted(ways.items(), reverse=bool(number % 2)):
                    before = cpu_us(services), cpu_us([gateway])
                    outcome = run(load(port), CONCURRENCY, 1)
                    if outcome.errors:
                        raise SystemExit(f"{title}, {way}: {outcome.errors} errors")
                    used = cpu_us(services) - before[0], cpu_us([gateway]) - before[1]
                    seen[way].append((used[0] / outcome.requests, used[1] / outcome.requests, outcome.rate))
            for way, runs in seen.items():
                of_services, of_gateway, rates = zip(*runs, strict=True)
                print(
                    f"{title:12} {way:8} CPU of services {quartile(of_services):9.0f} us, of the gateway "
                    f"{quartile(of_gateway):7.0f} us, {sorted(rates)[len(rates) // 2]:7.0f} a second (or MB)"
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *[int(given) for given in (*sys.argv[2:], *("9", "256")[len(sys.argv) - 2 :])])
