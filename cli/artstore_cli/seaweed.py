"""SeaweedFS from its wheel: the S3 service of `up --s3`. By default it is open to everyone and sends telemetry: neither here."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path

from .ports import LOOPBACK
from .processes import Command

BUCKET = "artstore"
PORTS = tuple(f"{part}{kind}" for part in ("master", "volume", "filer", "s3") for kind in (".port", ".port.grpc"))
"""Its four servers with two ports each, by the names of its options."""
VOLUME_LIMIT_MB = 1024
ANSWER_TIMEOUT_S = 2


def serve(data: Path, ports: Mapping[str, int], identities: Path, log: Path) -> Command:
    data.mkdir(mode=0o700, exist_ok=True)
    options = [f"-{name}={ports[name]}" for name in PORTS]
    return Command(
        [
            str(Path(sys.executable).parent / "weed"),
            "server",
            f"-dir={data}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-master.telemetry=false",
            f"-master.volumeSizeLimitMB={VOLUME_LIMIT_MB}",
            "-volume.max=0",
            "-volume.preStopSeconds=0",
            "-filer",
            "-s3",
            f"-s3.config={identities}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *options,
        ],
        {"PATH": os.defpath, "HOME": str(data)},
        data,
        log,
    )


def is_ready(ports: Mapping[str, int]) -> bool:
    """Whether S3 answers, and the bucket is there: made through the filer, which keeps buckets as folders."""
    made = (200, 201, HTTPStatus.CONFLICT)  # a conflict: it was there before
    return _asked("GET", ports["s3.port"], "/healthz", (200,)) and _asked(
        "POST", ports["filer.port"], f"/buckets/{BUCKET}/", made
    )


def _asked(method: str, port: int, path: str, wanted: Collection[int]) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request(method, path)
        return connection.getresponse().status in wanted
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
