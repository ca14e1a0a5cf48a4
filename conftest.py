"""Settings of every pytest run, of a module or of `tests/`."""

from __future__ import annotations

import os

# Tests speak HTTP without TLS. Each httpx client would load all root certificates, which takes 18 ms of CPU.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.devnull
