"""What the commands for tokens share: how one names a token, and how one writes a time."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import timedelta

from django.core.management.base import CommandError
from django.utils import timezone

from realtime.auth.models import AccessToken

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def find_token(wanted: str) -> AccessToken | None:
    """Return the one token that a name or prefix means; ``None`` if it is revoked already.

    Raises:
        CommandError: there is none, or the name is that of several.
    """
    # A prefix names one token, whatever another one is called.
    found = list(AccessToken.objects.filter(prefix=wanted))
    found = found or list(AccessToken.objects.filter(name=wanted))
    active = [token for token in found if token.revoked_at is None]
    if not found:
        raise CommandError(f"no token is named {wanted!r} or has this prefix")
    if len(active) > 1:
        prefixes = ", ".join(token.prefix for token in active)
        raise CommandError(f"{wanted!r} is ambiguous: give one of the prefixes {prefixes}")
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
