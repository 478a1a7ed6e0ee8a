"""The token and the administrator of ``serve --demo``, and the text that tells a newcomer of them.

The secrets are kept in the data directory, so they stay the same from start to start.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from django.contrib.auth import get_user_model

from realtime.auth.tokens import create_token, find_grant
from realtime.auth.tokens import digest as secret_digest

NAME = "demo"


class DemoAccess(NamedTuple):
    """The demo's secrets. ``password`` is empty where the site had a superuser already."""

    token: str
    password: str


def demo_access(data_dir: Path) -> DemoAccess:
    """Return the demo's token and admin password, made anew if they do not work any more."""
    path = data_dir / "demo.json"
    access = None
    with suppress(OSError, ValueError, TypeError):
        access = DemoAccess(**json.loads(path.read_text()))
    if access is None or find_grant(secret_digest(access.token)) is None:
        token = create_token(NAME, can_publish=True)[1]
        access = DemoAccess(token, access.password if access else _make_superuser())
        path.touch(mode=0o600)
        path.write_text(json.dumps(access._asdict()))
    return access


def _make_superuser() -> str:
    """Make a superuser with a random password if the site has none; return the password."""
    users = get_user_model()
    if users.objects.filter(is_superuser=True).exists():
        return ""
    password = secrets.token_urlsafe(9)
    users.objects.create_superuser(NAME, password=password)
    return password


def welcome(access: DemoAccess, port: int) -> str:
    """Return what a newcomer reads: where everything is, and two lines to paste."""
    auth = json.dumps({"type": "auth", "data": {"token": access.token}})
    filters = {"event_type": "departure"}
    subscribe = json.dumps({"type": "subscribe", "data": {"type": "events", "filters": filters}})
    address = f"localhost:{port}"
    admin = f"  admin      http://{address}/admin/  user {NAME}, password {access.password}\n"
    return f"""
A week of New York flights (2013) is being replayed.

  dashboard  http://{address}/#token={access.token}
{admin if access.password else ""}  token      {access.token}
  socket     ws://{address}/ws/

Or paste into the console of a browser (F12) at http://{address}/ :

  ws = new WebSocket('ws://{address}/ws/'); \
ws.onmessage = m => console.log(m.data); ws.onopen = () => {{ \
ws.send('{auth}'); ws.send('{subscribe}') }}

or send these two lines with any WebSocket client:

  {auth}
  {subscribe}

"""
