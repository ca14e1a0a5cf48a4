"""Memory (PSS) and CPU of each process of a running system: `python -m bench.idle DATA [SECONDS]`.

The CPU time includes that of descendants, so PostgreSQL counts with its sessions.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from artstore_cli.bench.machine import cpu_s, memory_mb, tree
from artstore_cli.data_folder import DataFolder, find_record

DEFAULT_SECONDS = 60.0


def main(folder: Path, seconds: float) -> int:
    record = find_record(DataFolder(folder))
    if record is None:
        sys.stderr.write(f"nothing runs on {folder}\n")
        return 1
    parts = {"launcher": record.launcher.pid, **{name: identity.pid for name, identity in record.processes.items()}}
    before = {name: cpu_s(pid) for name, pid in parts.items()}
    time.sleep(seconds)
    used = {name: (cpu_s(pid) - before[name]) / seconds * 100 for name, pid in parts.items()}
    used["launcher"] -= sum(used[name] for name in record.processes)  # its descendants are the others
    memory = {name: memory_mb([pid] if name == "launcher" else tree(pid)) for name, pid in parts.items()}
    for name, size in memory.items():
        print(f"{name:12} {size:6.1f} MB {used[name]:6.2f} % of a core")
    print(f"{'all':12} {sum(memory.values()):6.1f} MB {sum(used.values()):6.2f} % of a core")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else DEFAULT_SECONDS))
