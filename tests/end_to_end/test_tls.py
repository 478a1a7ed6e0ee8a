"""TLS at the server itself: bytes go through the transport, with the same order and bounds."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect

from tests.support import Client, OtherServer, Server, manage


def write_certificate(directory: Path) -> Path:
    """Write a key and its certificate for localhost into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = directory / "server.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Stock Daphne with a TLS endpoint."""
    data_dir = tmp_path_factory.mktemp("tls")
    done = manage("migrate", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    pem = write_certificate(data_dir)
    endpoint = f"ssl:{{port}}:privateKey={pem}:certKey={pem}:interface=127.0.0.1"
    program = ("-m", "daphne", "-e", endpoint, "streaming_site.asgi:application")
    with OtherServer(data_dir, *program, max_buffered_bytes="65536") as server:
        yield server


@asynccontextmanager
async def tls_client(server: Server, token: str) -> AsyncIterator[Client]:
    """Connect over TLS and authenticate."""
    context = ssl.create_default_context(cafile=str(server.data_dir / "server.pem"))
    url = f"wss://localhost:{server.port}/ws/"
    async with connect(url, ssl=context, compression=None, max_size=None) as socket:
        page = Client(socket)
        await page.authenticate(token)
        yield page


async def test_every_payload_arrives_in_order(tls_server: Server) -> None:
    sent = [{"n": n, "text": "x" * size} for n, size in enumerate((10, 3000, 200_000, 10))]
    async with tls_client(tls_server, tls_server.new_token()) as page:
        await page.subscribe("events")
        for payload in sent:
            tls_server.publish("events", payload)
            assert await page.assert_data("events") == payload
        await page.assert_silent()


async def test_a_client_that_does_not_read_is_closed(tls_server: Server) -> None:
    token = tls_server.new_token()
    sent = [{"n": n, "text": "x" * 10_000} for n in range(100)]
    async with tls_client(tls_server, token) as quick, tls_client(tls_server, token) as slow:
        for page in (quick, slow):
            await page.subscribe("events")
        slow.socket.transport.pause_reading()
        process = psutil.Process(tls_server.process.pid)
        before = process.memory_info().rss
        for _ in range(20):
            for start in range(0, len(sent), 5):
                some = sent[start : start + 5]
                await asyncio.to_thread(tls_server.publish, "events", *some)
                assert [await quick.assert_data("events") for _ in some] == some
        assert process.memory_info().rss < before + 20 * 1024 * 1024
        slow.socket.transport.resume_reading()
        await slow.assert_closed(1013, "slow consumer")
