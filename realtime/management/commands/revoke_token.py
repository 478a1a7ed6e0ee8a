"""``manage.py revoke_token``: revoke a token and close its connections."""

from __future__ import annotations

from typing import Any

from realtime.auth.models import AccessToken
from realtime.auth.tokens import revoke
from realtime.management.tokens import TokenCommand


class Command(TokenCommand):
    """Revokes in the database, which servers read each second; needs no channel layer."""

    help = "Revoke a token; its live connections are closed within 2 seconds."

    def change(self, token: AccessToken | None, options: dict[str, Any]) -> None:
        if token is None:
            self.stderr.write(f"{options['token']} is revoked already", self.style.WARNING)
            return
        revoke([token])
        self.stderr.write(f"revoked {token}", self.style.SUCCESS)
