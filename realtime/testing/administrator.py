"""Processes that run the Python they are told, with Django set up: administrators at a shell.

To import Django and the project takes most of a second. So one process, the fork server, imports
what every project needs, and each administrator is a fork of it with the variables of its own
server. The tests' side is here too.

A request is a line of JSON, ``[statements, {name: value, ...}]``. The answer is a line with what
the statements leave in ``result``, or with the traceback of their error.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

# What takes long to import, and reads no settings when it is imported.
IMPORTED_BEFORE = (
    *("channels.layers", "channels_redis.pubsub", "django.contrib.auth.hashers"),
    *("django.core.management", "django.db.backends.sqlite3.base", "django.forms"),
    *("django.template", "django.views", "jwt", "msgspec", "pydantic_settings", "redis.asyncio"),
)
# A request to the fork server is one packet: the environment of a process.
MAX_ENVIRONMENT_BYTES = 200_000
PROGRAM = "from realtime.testing.administrator import serve_forks; serve_forks()"


class Administrator:
    """A process with Django set up that runs the Python it is told."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rw")

    def run(self, statements: str, values: dict[str, Any]) -> Any:
        """Run *statements* there with the names *values*; return what they leave in ``result``.

        Both are JSON. Raises:
            AssertionError: an error there, with its traceback.
        """
        self._file.write(json.dumps([statements, values]) + "\n")
        self._file.flush()
        answer = json.loads(self._file.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def close(self) -> None:
        """End the process, and return when it has ended."""
        self._connection.shutdown(socket.SHUT_WR)
        self._file.read()
        self._file.close()
        self._connection.close()


# Folder of a ``manage.py`` -> the process whose forks are its administrators. It ends when the
# socket is closed, with the tests' process at the latest.
_fork_servers: dict[Path, tuple[socket.socket, subprocess.Popen[bytes]]] = {}


def start_administrator(root: Path, variables: dict[str, str]) -> Administrator:
    """Start an administrator of the project in *root* with these environment variables."""
    if root not in _fork_servers:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            program = [sys.executable, "-c", PROGRAM, str(theirs.fileno())]
            process = subprocess.Popen(program, env=variables, cwd=root, pass_fds=[theirs.fileno()])
        _fork_servers[root] = control, process
    ours, theirs = socket.socketpair()
    with theirs:
        request = json.dumps(variables).encode()
        socket.send_fds(_fork_servers[root][0], [request], [theirs.fileno()])
    return Administrator(ours)


def end_fork_servers() -> None:
    """End all fork servers, at the end of a test run."""
    while _fork_servers:
        _, (control, process) = _fork_servers.popitem()
        control.close()
        process.wait()


def serve_forks() -> None:
    """Fork an administrator for each request on the socket that is the program's argument.

    A request is a JSON object, the environment variables, with the file descriptor of the socket
    on which the administrator is to serve.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in IMPORTED_BEFORE:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, MAX_ENVIRONMENT_BYTES, 1)
        if not request:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            if os.fork() == 0:
                control.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.environ.clear()
                os.environ.update(json.loads(request))
                administer(connection)
                sys.exit()


def administer(connection: socket.socket) -> None:
    """Run the statements of each request, until the tests' process closes the connection."""
    import django

    django.setup()
    from channels.layers import get_channel_layer
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connections
    from django.utils import timezone

    from realtime import models, publish_many
    from realtime.auth import tokens

    available = {
        "AccessToken": models.AccessToken,
        "AllowedOrigin": models.AllowedOrigin,
        "Limits": models.Limits,
        "StringIO": io.StringIO,
        "User": User,
        "call_command": call_command,
        "create_token": tokens.create_token,
        "get_channel_layer": get_channel_layer,
        "publish_many": publish_many,
        "rotate": tokens.rotate,
        "timedelta": timedelta,
        "timezone": timezone,
    }
    with connection.makefile("rw") as file:
        for line in file:
            statements, values = json.loads(line)
            names: dict[str, Any] = available | values
            try:
                exec(statements, names)
                answer = {"result": names.get("result")}
            except Exception:
                answer = {"error": traceback.format_exc()}
            finally:
                connections.close_all()  # the next request may meet a database that was restarted
            file.write(json.dumps(answer) + "\n")
            file.flush()
