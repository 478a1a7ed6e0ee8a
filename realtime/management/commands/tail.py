"""``manage.py tail``: print the messages of a type as they come."""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from realtime.auth.models import AccessToken
from realtime.auth.tokens import create_token
from realtime.client import Gap, Message, State, StreamingClient, StreamingError, Token
from realtime.config import get_streaming_config
from realtime.filters.compiler import parse_filter_options
from realtime.management.running import printing
from realtime.protocol import PAYLOAD_KEYS, SUBSCRIPTION_TYPES

# How long a token of this command's own works, should the command not get to delete it.
LIFETIME = timedelta(hours=1)
NAME = "manage.py tail"
# What the client passes on to the server with the subscription -> how the option is declared.
SUBSCRIPTION_OPTIONS: dict[str, dict[str, Any]] = {
    "rewind": {"type": int, "metavar": "N", "help": "begin with the newest N, 1 to 1000"},
    "explain": {"action": "store_true", "help": "say how many of the newest messages match"},
    "max_rate": {"type": float, "metavar": "N", "help": "at most N messages per second"},
    "conflate": {
        "metavar": "PATH",
        "help": "the newest message per value, --max-rate times a second",
    },
    "batch_ms": {"type": int, "metavar": "MS", "help": "several messages in one frame"},
    "fields": {
        "type": lambda text: text.split(","),
        "metavar": "PATH,PATH",
        "help": "only these parts of the payload",
    },
    "on_overflow": {"choices": ["close", "drop"], "help": "if this reads too slowly"},
}


class Command(BaseCommand):
    """A client like others: it prints what others receive."""

    help = "Print the messages of a type as they come, one JSON object a line, until interrupted."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare what to subscribe to, and where."""
        parser.add_argument("type", choices=SUBSCRIPTION_TYPES)
        parser.add_argument(
            "--filter", action="append", default=[], metavar="PATH=VALUE", help="repeat for several"
        )
        for name, declaration in SUBSCRIPTION_OPTIONS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", **declaration)
        port = get_streaming_config().websocket.port
        parser.add_argument("--url", default=f"ws://127.0.0.1:{port}/ws/")
        parser.add_argument(
            "--token", help="default: one made in this database, deleted at the end"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print until interrupted."""
        try:
            with printing(), _own_tokens(options["type"]) as own_token:
                filters = parse_filter_options(options["filter"])
                asyncio.run(self._follow(options, filters, options["token"] or own_token))
        except ValueError as error:
            raise CommandError(str(error)) from None
        except StreamingError as error:
            raise CommandError(f"{options['url']}: {error}") from None
        except KeyboardInterrupt:
            sys.exit(130)

    async def _follow(self, options: dict[str, Any], filters: Any, token: Token) -> None:
        """Subscribe, and print what comes."""
        async with StreamingClient(options["url"], token, on_state=self._show_state) as client:
            messages = await client.subscribe(
                options["type"],
                filters,
                on_gap=self._show_gap,
                **{name: options[name] for name in SUBSCRIPTION_OPTIONS},
            )
            if messages.explanation is not None:
                self.stderr.write("\n".join(_explained(messages.explanation)))
            async for message in messages:
                sys.stdout.write(_line(message))
                sys.stdout.flush()

    def _show_state(self, state: State) -> None:
        if state is not State.CLOSED:
            self.stderr.write(state.value)

    def _show_gap(self, gap: Gap) -> None:
        self.stderr.write(f"messages are lost: {gap.reason}")


@contextmanager
def _own_tokens(kind: str) -> Iterator[Token]:
    """Give what makes a token for each connection; all of them end with the command."""
    keys: list[int] = []

    def make() -> str:
        # Those of commands that were killed.
        AccessToken.objects.filter(name=NAME, expires_at__lt=timezone.now()).delete()
        token, secret = create_token(NAME, types=[kind], expires_at=timezone.now() + LIFETIME)
        keys.append(token.pk)
        return secret

    try:
        yield sync_to_async(make)
    finally:
        if keys:
            AccessToken.objects.filter(pk__in=keys).delete()


def _explained(explanation: Mapping[str, Any]) -> Iterator[str]:
    """Yield an explanation in lines."""
    yield f"{explanation['matching']} of the newest {explanation['retained']} messages match"
    yield from _explained_paths(explanation, "  ")


def _explained_paths(explanation: Mapping[str, Any], indent: str) -> Iterator[str]:
    for path, count in explanation["paths"].items():
        yield f"{indent}{path}: present in {count['present']}, matches in {count['matching']}"
    for number, alternative in enumerate(explanation.get("or", ()), 1):
        yield f"{indent}alternative {number}: matches in {alternative['matching']}"
        yield from _explained_paths(alternative, indent + "  ")


def _line(message: Message) -> str:
    fields = {
        PAYLOAD_KEYS[message.type]: message.payload,
        "subscription_type": message.type,
        "timestamp": message.timestamp,
        **(message.position._asdict() if message.position else {}),
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"
