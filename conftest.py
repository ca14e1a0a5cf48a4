"""Settings of every pytest run, of a module or of `tests/`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import certifi

_END = "-----END CERTIFICATE-----\n"
# Tests speak HTTP without TLS. Each httpx client would load all root certificates, which takes 18 ms of CPU; one is
# enough, and the S3 client of the services refuses to start with none.
_one_certificate = tempfile.NamedTemporaryFile("w", prefix="artstore-test-", suffix=".pem")  # noqa: SIM115
_one_certificate.write(Path(certifi.where()).read_text().partition(_END)[0] + _END)
_one_certificate.flush()
os.environ["SSL_CERT_FILE"] = _one_certificate.name
