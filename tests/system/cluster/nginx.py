"""nginx with deploy/nginx/streaming.conf, but for addresses and certificates."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.support import ROOT, free_port, lacks, wait_until

CONFIGURATION = ROOT / "deploy/nginx/streaming.conf"
# Everything that nginx wants to write goes into its folder.
_AROUND = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


def find_nginx() -> str:
    """Return where nginx is; it may be where only root has it on PATH. Skips if it is nowhere."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    return found or lacks("nginx is not installed")


def render(
    folder: Path, servers: Sequence[str], port: int, plain_port: int, certificate: tuple[Path, Path]
) -> Path:
    """Write the configuration with these servers, ports and certificates; return where."""
    text = CONFIGURATION.read_text()
    upstream = "\n".join(f"    server {server} max_fails=1 fail_timeout=2s;" for server in servers)
    for pattern, replacement in (
        (r"    server [\d.]+:\d+ .*;", upstream),
        (r"listen 443 ", f"listen 127.0.0.1:{port} "),
        (r"listen 80;", f"listen 127.0.0.1:{plain_port};"),
        (r"(?m)^( *ssl_certificate ).*;", rf"\g<1>{certificate[0]};"),
        (r"(?m)^( *ssl_certificate_key ).*;", rf"\g<1>{certificate[1]};"),
    ):
        text, count = re.subn(pattern, replacement, text)
        assert count == 1, pattern
    path = folder / "nginx.conf"
    path.write_text(_AROUND.format(folder=folder, servers=text))
    return path


class Nginx:
    """A running nginx in front of servers."""

    def __init__(
        self, folder: Path, servers: Sequence[str], certificate: tuple[Path, Path]
    ) -> None:
        self._folder = folder
        folder.mkdir(mode=0o755, parents=True)
        self.port, self.plain_port = free_port(), free_port()
        self._configuration = render(folder, servers, self.port, self.plain_port, certificate)

    def __enter__(self) -> Self:
        command = [find_nginx(), "-p", str(self._folder), "-c", str(self._configuration)]
        # Before it has read where to write, it writes to standard error.
        self._process = subprocess.Popen([*command, "-e", str(self._folder / "error.log")])
        wait_until(self._is_listening)
        return self

    def _is_listening(self) -> bool:
        assert self._process.poll() is None, (self._folder / "error.log").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()
