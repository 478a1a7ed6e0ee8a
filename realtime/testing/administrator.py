"""Processes that run the Python they are told, with Django set up: administrators at a shell.

To import Django and the project takes most of a second. So one process, the fork server, imports
what every project needs, and each administrator is a fork of it with the variables of its own
server. :mod:`realtime.testing.helpers` has the tests' side.

A request is a line of JSON, ``[statements, {name: value, ...}]``. The answer is a line with what
the statements leave in ``result``, or with the traceback of their error.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import traceback
from datetime import timedelta
from importlib import import_module
from typing import Any

# What takes long to import, and reads no settings when it is imported.
IMPORTED_BEFORE = (
    *("channels.layers", "channels_redis.pubsub", "django.contrib.auth.hashers"),
    *("django.core.management", "django.db.backends.sqlite3.base", "django.forms"),
    *("django.template", "django.views", "jwt", "msgspec", "pydantic_settings", "redis.asyncio"),
)
# A request to the fork server is one packet: the environment of a process.
MAX_ENVIRONMENT_BYTES = 200_000


def serve_forks(control: socket.socket) -> None:
    """Fork an administrator for each request on *control*, until the tests' process ends.

    A request is a JSON object, the environment variables, with the file descriptor of the socket
    on which the administrator is to serve.
    """
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


if __name__ == "__main__":
    serve_forks(socket.socket(fileno=int(sys.argv[1])))
