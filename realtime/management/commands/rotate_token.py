"""``manage.py rotate_token``: give a token a new secret; the old secret works a while longer."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError

from realtime.auth.models import AccessToken
from realtime.auth.tokens import rotate
from realtime.management.tokens import TokenCommand, parse_duration


class Command(TokenCommand):
    """Prints the secret alone on standard output, so that a script can keep it."""

    help = "Give a token a new secret, printed once on standard output; its rights stay."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--overlap",
            type=parse_duration,
            default=timedelta(days=1),
            help="how long the old secret works: a number and s, m, h or d; default 1d",
        )
        parser.add_argument("--now", action="store_true", help="end the old secret at once")

    def change(self, token: AccessToken | None, options: dict[str, Any]) -> None:
        if token is None:
            raise CommandError(f"{options['token']} is revoked")
        secret = rotate(token, timedelta() if options["now"] else options["overlap"])
        until = token.previous_until
        ends = f"works until {until:%Y-%m-%d %H:%M:%S} UTC" if until else "has ended"
        self.stderr.write(f"rotated {token}; the old secret {ends}", self.style.SUCCESS)
        self.stdout.write(secret)
