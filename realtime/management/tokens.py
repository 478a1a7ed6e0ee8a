"""What the commands for tokens share: how a token is named, and how long a time is."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from realtime.auth.models import AccessToken
from realtime.management.database import prepare_database

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class TokenCommand(BaseCommand):
    """Changes a token that there is. A subclass implements :meth:`change`."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("token", metavar="NAME_OR_PREFIX")

    def handle(self, *args: Any, **options: Any) -> None:
        prepare_database()
        self.change(_find_token(options["token"]), options)

    def change(self, token: AccessToken | None, options: dict[str, Any]) -> None:
        """Change the token; it is ``None`` if it has been revoked."""
        raise NotImplementedError


def _find_token(name: str) -> AccessToken | None:
    """Return the token with a name or prefix; ``None`` if it has been revoked.

    Raises:
        CommandError: there is no such token, or several have that name and are not revoked.
    """
    # A prefix names its token, whatever another token is called.
    tokens = list(AccessToken.objects.filter(prefix=name))
    tokens = tokens or list(AccessToken.objects.filter(name=name))
    active = [token for token in tokens if token.revoked_at is None]
    if not tokens:
        raise CommandError(f"no token is named {name!r} or has this prefix")
    if len(active) > 1:
        prefixes = ", ".join(token.prefix for token in active)
        raise CommandError(f"{name!r} is ambiguous: give one of the prefixes {prefixes}")
    return active[0] if active else None


def parse_duration(text: str) -> timedelta:
    """Return how long ``30d``, ``12h``, ``5m`` or ``90s`` is. Raises ``ArgumentTypeError``."""
    try:
        duration = timedelta(**{UNITS[text[-1:]]: float(text[:-1])})
        timezone.now() + duration  # within the calendar
    except (KeyError, ValueError, OverflowError):
        duration = timedelta()
    if duration <= timedelta():
        raise ArgumentTypeError(f"{text!r}: expected a number and s, m, h or d, such as 30d")
    return duration
