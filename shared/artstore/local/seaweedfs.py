"""SeaweedFS from its wheel. Its defaults, open to everyone and with telemetry, are switched off."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path

from artstore.local.ports import LOOPBACK

BUCKET = "artstore"
PORTS = tuple(f"{part}{kind}" for part in ("master", "volume", "filer", "s3") for kind in (".port", ".port.grpc"))
"""Its four servers have two ports each; named as its options."""
ANSWER_TIMEOUT_S = 2


def command(
    data: Path, ports: Mapping[str, int], identities: Path | None = None, volume_limit_mb: int = 1024
) -> list[str]:
    """`ports`: one for each of PORTS. `identities`: its file of S3 accounts; without it there is no S3 service."""
    s3 = ["-s3", f"-s3.config={identities}", "-s3.port.iceberg=0", "-s3.port.lance=0"] if identities else []
    return [
        str(Path(sys.executable).parent / "weed"),
        "-logtostderr=true",
        "server",
        f"-dir={data}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        "-master.telemetry=false",
        f"-master.volumeSizeLimitMB={volume_limit_mb}",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        "-filer",
        "-filer.localSocket=filer.sock",  # relative, because a socket's path has at most 107 characters
        *s3,
        *(f"-{name}={ports[name]}" for name in PORTS if s3 or not name.startswith("s3")),
    ]


def environment(data: Path) -> dict[str, str]:
    """TMPDIR: its logs, which it would write to /tmp."""
    return {"PATH": os.defpath, "HOME": str(data), "TMPDIR": str(data)}


def remove_sockets(ports: Mapping[str, int]) -> None:
    """Remove the sockets in /tmp that it leaves behind when it is killed. It has no option for their folder."""
    for name in PORTS:
        if name.endswith(".grpc"):
            Path(f"/tmp/seaweedfs-{name.partition('.')[0]}-grpc-{ports[name]}.sock").unlink(missing_ok=True)  # noqa: S108


def is_healthy(port: int) -> bool:
    """True if the S3 server at `port` answers."""
    return _has_status(port, "GET", "/healthz", (HTTPStatus.OK,))


def is_ready(ports: Mapping[str, int]) -> bool:
    """True if S3 answers and has the bucket. Creates the bucket through the filer, which stores buckets as folders."""
    exists = (HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.CONFLICT)
    return is_healthy(ports["s3.port"]) and _has_status(ports["filer.port"], "POST", f"/buckets/{BUCKET}/", exists)


def _has_status(port: int, method: str, path: str, wanted: Collection[int]) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request(method, path)
        return connection.getresponse().status in wanted
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
