"""The gateway with a certificate from files, in front of the running services."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.system import OFFSETS, ROOT, System

from artstore.local import caddy
from artstore.local.ports import choose_ports


def make_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1)).add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding, form, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "tls.key").write_bytes(key.private_bytes(encoding, form, plain))


@pytest.fixture(scope="module")
def ports(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int | Path]]:
    folder, chosen = tmp_path_factory.mktemp("tls"), choose_ports(("http", "https"), {})
    make_certificate(folder)
    services = {name: [f"127.0.0.1:{system.base + OFFSETS[name]}"] for name in ("admin", "ingester", "query")}
    environment = caddy.environment(ROOT / "gateway", folder, chosen["http"], services) | {
        "GATEWAY_TLS": "files",
        "GATEWAY_TLS_PORT": str(chosen["https"]),
        "GATEWAY_REDIRECT_PORT": str(chosen["https"]),
        "GATEWAY_CERTIFICATE": str(folder / "tls.crt"),
        "GATEWAY_CERTIFICATE_KEY": str(folder / "tls.key"),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(caddy.command(ROOT / "gateway"), cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                assert httpx.get(f"http://127.0.0.1:{chosen['http']}/health/ready").status_code == 200
                break
            except httpx.TransportError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield {**chosen, "certificate": folder / "tls.crt"}
    finally:
        process.terminate()
        process.wait(60)


def test_tls_by_files(system: System, ports: dict[str, int | Path]) -> None:
    trusted = ssl.create_default_context(cafile=str(ports["certificate"]))
    address = f"https://localhost:{ports['https']}"
    with httpx.Client(verify=trusted, headers={"authorization": f"Bearer {system.token()}"}) as client:
        stored = client.post(f"{address}/api/files/upload?filename=a", content=b"abc")
        assert stored.status_code == 201
        assert stored.headers["strict-transport-security"] == "max-age=31536000"
        url = f"{address}/api/files/{stored.json()['file_id']}"
        assert client.get(f"{url}/content").content == b"abc"
        assert client.post(f"{url}/links", json={}).json()["url"].startswith(f"{address}/api/links/")
        described = client.get(f"{address}/.well-known/oauth-authorization-server").json()
        assert described["token_endpoint"] == f"{address}/api/auth/token"
        missing = client.get(f"{address}/unknown")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        redirect = client.get(f"http://localhost:{ports['http']}/api/files?limit=1")
        assert (redirect.status_code, redirect.headers["location"]) == (308, f"{address}/api/files?limit=1")
