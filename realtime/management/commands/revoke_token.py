"""``manage.py revoke_token``: end a token and its live connections."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from realtime.auth import revoke
from realtime.database import migrate_embedded
from realtime.models import AccessToken


class Command(BaseCommand):
    """Revokes through the database, which servers look at each second; needs no channel layer."""

    help = "Revoke a token; its live connections are closed within 2 seconds."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the argument."""
        parser.add_argument("token", metavar="NAME_OR_PREFIX")

    def handle(self, *args: Any, **options: Any) -> None:
        """Revoke the one token that is meant."""
        migrate_embedded()
        wanted = options["token"]
        # A prefix names one token, whatever another one is called.
        found = list(AccessToken.objects.filter(prefix=wanted))
        found = found or list(AccessToken.objects.filter(name=wanted))
        active = [token for token in found if token.revoked_at is None]
        if not found:
            raise CommandError(f"no token is named {wanted!r} or has this prefix")
        if len(active) > 1:
            prefixes = ", ".join(token.prefix for token in active)
            raise CommandError(f"{wanted!r} is ambiguous: give one of the prefixes {prefixes}")
        if not active:
            self.stderr.write(f"{wanted} is revoked already", self.style.WARNING)
            return
        revoke(active)
        self.stderr.write(f"revoked {active[0]}", self.style.SUCCESS)
