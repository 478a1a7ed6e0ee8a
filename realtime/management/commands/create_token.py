"""``manage.py create_token``: create a token and print its secret, once."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from realtime.auth.tokens import create_token
from realtime.filters.compiler import parse_filter_options
from realtime.management.database import prepare_database
from realtime.management.tokens import parse_duration
from realtime.protocol import SUBSCRIPTION_TYPES


class Command(BaseCommand):
    """Prints the secret alone on standard output, so that a script can keep it."""

    help = "Create an access token. The secret goes to standard output, the rest to standard error."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare name and rights."""
        parser.add_argument("name")
        parser.add_argument(
            "--types", type=_types, help="subscription types, separated by commas; default: all"
        )
        parser.add_argument(
            "--filter",
            action="append",
            default=[],
            metavar="PATH=VALUE",
            help="enforced on every subscription; repeat for several",
        )
        parser.add_argument(
            "--expires", type=parse_duration, help="lifetime: a number and s, m, h or d"
        )
        parser.add_argument("--publish", action="store_true", help="may publish over HTTP")
        parser.add_argument("--stats", action="store_true", help="may see the statistics")
        parser.add_argument("--max-connections", type=int, help="connections at the same time")
        parser.add_argument("--rate-limit", type=int, help="messages a minute")

    def handle(self, *args: Any, **options: Any) -> None:
        """Create the token."""
        prepare_database()
        fields: dict[str, Any] = {
            "can_publish": options["publish"],
            "can_view_stats": options["stats"],
            "max_connections": options["max_connections"],
            "rate_limit_per_minute": options["rate_limit"],
        }
        if options["types"]:
            fields["types"] = options["types"]
        if options["expires"]:
            fields["expires_at"] = timezone.now() + options["expires"]
        try:
            fields["filters"] = parse_filter_options(options["filter"])
            token, secret = create_token(options["name"], **fields)
        except ValidationError as error:
            raise CommandError("; ".join(_explain(error))) from None
        except ValueError as error:
            raise CommandError(str(error)) from None
        self.stderr.write(f"created {token}: {', '.join(token.types)}", self.style.SUCCESS)
        self.stdout.write(secret)


def _explain(error: ValidationError) -> list[str]:
    return [
        f"{field.replace('_', '-')}: {' '.join(messages)}"
        for field, messages in error.message_dict.items()
    ]


def _types(text: str) -> list[str]:
    types = [item.strip() for item in text.split(",") if item.strip()]
    unknown = [item for item in types if item not in SUBSCRIPTION_TYPES]
    if unknown or not types:
        raise ArgumentTypeError(f"{text!r}: subscription types are {', '.join(SUBSCRIPTION_TYPES)}")
    return list(dict.fromkeys(types))
