"""The S3 service of `up --s3`: ready with its bucket, and closed to who has no credentials."""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Callable

from obstore.store import S3Store

from artstore.local import seaweedfs
from artstore.local.ports import choose_ports
from artstore_cli.data_folder import DataFolder
from artstore_cli.parts import serve_seaweedfs
from artstore_cli.processes import spawn

Generate = Callable[..., subprocess.CompletedProcess[str]]
START_TIMEOUT_S = 60


def test_s3_accepts_only_our_identity(folder: DataFolder, generate: Generate) -> None:
    generate(folder.keys)
    ports = choose_ports(seaweedfs.PORTS, {})
    command = serve_seaweedfs(folder, ports)
    process = spawn(command)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not seaweedfs.is_ready(ports):
            assert process.poll() is None, command.log.read_text()
            assert time.monotonic() < deadline, command.log.read_text()
            time.sleep(0.1)
        assert status_without_credentials(ports["s3.port"]) == 403
        store = S3Store(
            seaweedfs.BUCKET,
            endpoint=f"http://127.0.0.1:{ports['s3.port']}",
            access_key_id=(folder.keys / "s3-access-key-id").read_text(),
            secret_access_key=(folder.keys / "s3-secret-access-key").read_text(),
            region="us-east-1",
            client_options={"allow_http": True},
        )
        store.put("a/file", b"content")
        assert bytes(store.get("a/file").bytes()) == b"content"
    finally:
        process.kill()  # asked to end, it takes 15 s
        process.wait(120)


def status_without_credentials(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", f"/{seaweedfs.BUCKET}/a/file")
    try:
        return connection.getresponse().status
    finally:
        connection.close()
