"""``manage.py revoke_token``: revoke a token and close its connections."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from realtime.auth.tokens import revoke
from realtime.management.database import prepare_database
from realtime.management.tokens import find_token


class Command(BaseCommand):
    """Revokes in the database, which servers read each second; needs no channel layer."""

    help = "Revoke a token; its live connections are closed within 2 seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the argument."""
        parser.add_argument("token", metavar="NAME_OR_PREFIX")

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke the token."""
        prepare_database()
        token = find_token(options["token"])
        if token is None:
            self.stderr.write(f"{options['token']} is revoked already", self.style.WARNING)
            return
        revoke([token])
        self.stderr.write(f"revoked {token}", self.style.SUCCESS)
