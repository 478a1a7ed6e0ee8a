"""The token and the administrator of ``serve --demo``, and the text that tells a newcomer of them.

The secrets are kept in the data directory, so they stay the same from start to start.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from django.contrib.auth import get_user_model

from realtime.auth.tokens import create_token, find_grant
from realtime.auth.tokens import digest as secret_digest

NAME = "demo"


@dataclass(frozen=True)
class DemoAccess:
    """The demo's secrets. ``password`` is empty where the site had a superuser already."""

    token: str
    password: str


def demo_access(data_dir: Path) -> DemoAccess:
    """Return the demo's token and admin password, made anew if they do not work any more."""
    path = data_dir / "demo.json"
    access = _read(path)
    if access is None or find_grant(secret_digest(access.token)) is None:
        token = create_token(NAME, can_publish=True)[1]
        access = DemoAccess(token, access.password if access else _make_superuser())
        _write(path, access)
    return access


def _read(path: Path) -> DemoAccess | None:
    try:
        return DemoAccess(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, access: DemoAccess) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(access)))


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
    admin = ""
    if access.password:
        address = f"http://localhost:{port}/admin/"
        admin = f"  admin      {address}  user {NAME}, password {access.password}\n"
    return f"""
A week of New York flights (2013) is being replayed.

  dashboard  http://localhost:{port}/#token={access.token}
{admin}  token      {access.token}
  socket     ws://localhost:{port}/ws/

Or paste into the console of a browser (F12) at http://localhost:{port}/ :

  ws = new WebSocket('ws://localhost:{port}/ws/'); \
ws.onmessage = m => console.log(m.data); ws.onopen = () => {{ \
ws.send('{auth}'); ws.send('{_SUBSCRIBE}') }}

or send these two lines with any WebSocket client:

  {auth}
  {_SUBSCRIBE}

"""


_SUBSCRIBE = json.dumps(
    {"type": "subscribe", "data": {"type": "events", "filters": {"event_type": "departure"}}}
)
