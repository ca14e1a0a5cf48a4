"""The cost of a read: `python -m bench.reading [FILES] [SECONDS]`, a whole fleet, the CPU of its processes, the load from wrk.

Each file of 4 KiB is read for the first time (cold: Redis, catalog, element), then again (hot: memory); then one file, its
attributes, and one of 1 MiB.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import httpx
from support.fleet import Fleet, running_fleet

UPLOADS_AT_ONCE = 16
EACH_ONCE = """
local paths, headers, next_path = {}, {}, 0
function init(args)
  for line in io.lines(args[1]) do paths[#paths + 1] = line end
  headers["Authorization"] = "Bearer " .. args[2]
  next_path = tonumber(args[3])
end
function request()
  next_path = next_path % #paths + 1
  return wrk.format("GET", paths[next_path], headers)
end
"""
DONE = """
function done(summary, latency)
  io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50),
    summary.errors.status))
end
"""


def cpu_s(pid: int) -> float:
    """0 for a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(int(fields[at]) for at in (11, 12)) / os.sysconf("SC_CLK_TCK")


def used_s(fleet: Fleet) -> dict[str, float]:
    """CPU so far, by part."""
    backends = Path(f"/proc/{fleet.postgres.process.pid}/task/{fleet.postgres.process.pid}/children").read_text()
    used = {name: cpu_s(process.pid) for name, process in fleet.processes.items()}
    parts = {"query": used["query"], "elements": sum(used[name] for name in used if name.startswith("se"))}
    return parts | {"redis": cpu_s(fleet.valkey.process.pid), "postgres": sum(map(cpu_s, map(int, backends.split())))}


async def upload(fleet: Fleet, token: str, contents: Iterator[bytes]) -> list[str]:
    ids: list[str] = []
    headers = {"authorization": f"Bearer {token}", "content-type": "application/octet-stream"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def one_after_the_other() -> None:
            for content in contents:
                async with session.post(fleet.url("ingester") + "/api/files/upload?filename=a", data=content) as answer:
                    assert answer.status == 201, await answer.text()
                    ids.append((await answer.json())["file_id"])

        await asyncio.gather(*(one_after_the_other() for _ in range(UPLOADS_AT_ONCE)))
    return ids


def scripts_run(fleet: Fleet) -> float:
    metrics = httpx.get(f"{fleet.url('query')}/metrics", timeout=60).text
    return sum(map(float, re.findall(r'^redis_operations_total{operation="evalsha",result="ok"} (\S+)', metrics, re.M)))


def measure(fleet: Fleet, name: str, connections: int, seconds: int, *arguments: str) -> int:
    """Prints a row; returns the number of requests."""
    before, scripts = used_s(fleet), scripts_run(fleet)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests, took_us, p50_us, refused = map(int, re.findall(r"RESULT (\d+) (\d+) (\d+) (\d+)", output)[0])
    used = {part: (s - before[part]) * 1e6 / requests for part, s in used_s(fleet).items()}
    cpu = " ".join(f"{part} {us:.0f}" for part, us in used.items())
    scripts = (scripts_run(fleet) - scripts) / requests
    print(
        f"{name:28} c={connections:<3} {requests / took_us * 1e6:7.0f}/s p50 {p50_us / 1000:6.1f} ms  "
        f"CPU {sum(used.values()):5.0f} us ({cpu})  {scripts:.2f} scripts, {refused} refused",
        flush=True,
    )
    return requests


def main(files: int = 10_000, seconds: int = 3) -> None:
    with running_fleet() as fleet, tempfile.TemporaryDirectory() as folder:
        token = fleet.token()
        ids = asyncio.run(upload(fleet, token, (os.urandom(4096) for _ in range(files))))
        (large,) = asyncio.run(upload(fleet, token, iter([os.urandom(1 << 20)])))
        paths, each, done = Path(folder) / "paths", Path(folder) / "each.lua", Path(folder) / "done.lua"
        paths.write_text("\n".join(f"/api/files/{file_id}/content" for file_id in ids))
        each.write_text(EACH_ONCE + DONE)
        done.write_text(DONE)
        url, header = fleet.url("query"), f"Authorization: Bearer {token}"
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
        read = 0
        while read < files // 2:
            read += measure(fleet, "4 KiB, first time", 64, 1, "-s", str(each), url, "--", str(paths), token, str(read))
        measure(fleet, "4 KiB, again", 64, seconds, "-s", str(each), url, "--", str(paths), token, "0")
        one = ["-s", str(done), "-H", header]
        for connections in (64, 1):
            measure(fleet, "4 KiB, one file", connections, seconds, *one, f"{url}/api/files/{ids[0]}/content")
        measure(fleet, "attributes of one file", 64, seconds, *one, f"{url}/api/files/{ids[0]}")
        measure(fleet, "1 MiB, one file", 16, seconds, *one, f"{url}/api/files/{large}/content")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
