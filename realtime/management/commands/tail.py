"""``manage.py tail``: print the messages of a type as they come."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from realtime.auth.models import AccessToken
from realtime.auth.tokens import create_token
from realtime.client import Gap, Message, State, StreamingClient, StreamingError, Token
from realtime.config import get_streaming_config
from realtime.filters import parse_filter_options
from realtime.protocol import PAYLOAD_KEYS, SUBSCRIPTION_TYPES

# How long a token of this command's own works, should the command not get to delete it.
LIFETIME = timedelta(hours=1)
NAME = "manage.py tail"


class Command(BaseCommand):
    """A client like others: what it prints is what others get."""

    help = "Print the messages of a type as they come, one JSON object a line, until interrupted."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare what to subscribe to, and where."""
        parser.add_argument("type", choices=SUBSCRIPTION_TYPES)
        parser.add_argument(
            "--filter", action="append", default=[], metavar="PATH=VALUE", help="repeat for several"
        )
        parser.add_argument("--rewind", type=int, help="begin with the newest so many, 1 to 1000")
        parser.add_argument(
            "--explain", action="store_true", help="say what of the newest messages matches"
        )
        _add_options(parser)
        port = get_streaming_config().websocket.port
        parser.add_argument("--url", default=f"ws://127.0.0.1:{port}/ws/")
        parser.add_argument(
            "--token", help="by default one of this command's own, while it runs, of this database"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print until interrupted."""
        own = _OwnTokens(options["type"])
        # So that the token is deleted then too.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            filters = parse_filter_options(options["filter"])
            asyncio.run(self._follow(options, filters, options["token"] or own.make))
        except ValueError as error:
            raise CommandError(str(error)) from None
        except StreamingError as error:
            raise CommandError(f"{options['url']}: {error}") from None
        except BrokenPipeError:
            # Nobody reads any more; nor should the interpreter try to flush at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            own.delete()

    async def _follow(self, options: dict[str, Any], filters: Any, token: Token) -> None:
        client = StreamingClient(options["url"], token, on_state=self._tell)
        async with client:
            messages = await client.subscribe(
                options["type"],
                filters,
                rewind=options["rewind"],
                explain=options["explain"],
                on_gap=self._tell_gap,
                max_rate=options["max_rate"],
                conflate=options["conflate"],
                batch_ms=options["batch_ms"],
                fields=options["fields"].split(",") if options["fields"] else None,
                on_overflow=options["on_overflow"],
            )
            if messages.explanation is not None:
                self.stderr.write("\n".join(_explained(messages.explanation)))
            async for message in messages:
                sys.stdout.write(_line(message))
                sys.stdout.flush()

    def _tell(self, state: State) -> None:
        if state is not State.CLOSED:
            self.stderr.write(state.value)

    def _tell_gap(self, gap: Gap) -> None:
        self.stderr.write(f"messages are lost: {gap.reason}")


def _add_options(parser: ArgumentParser) -> None:
    """Declare what to receive less of."""
    parser.add_argument(
        "--max-rate", type=float, metavar="N", help="at most so many messages per second"
    )
    parser.add_argument(
        "--conflate", metavar="PATH", help="the newest message per value, --max-rate times a second"
    )
    parser.add_argument("--batch-ms", type=int, metavar="MS", help="several messages in one frame")
    parser.add_argument("--fields", metavar="PATH,PATH", help="only these parts of the payload")
    parser.add_argument("--on-overflow", choices=["close", "drop"])


class _OwnTokens:
    """A token for each connection; all of them end with the command."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._keys: list[int] = []

    async def make(self) -> str:
        return await sync_to_async(self._make)()

    def _make(self) -> str:
        # Those of commands that were killed.
        AccessToken.objects.filter(name=NAME, expires_at__lt=timezone.now()).delete()
        token, secret = create_token(NAME, types=[self._kind], expires_at=timezone.now() + LIFETIME)
        self._keys.append(token.pk)
        return secret

    def delete(self) -> None:
        if self._keys:
            AccessToken.objects.filter(pk__in=self._keys).delete()


def _explained(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield an explanation in lines."""
    yield f"{found['matching']} of the newest {found['retained']} messages match"
    yield from _explained_paths(found, "  ")


def _explained_paths(found: Mapping[str, Any], indent: str) -> Iterator[str]:
    for path, count in found["paths"].items():
        yield f"{indent}{path}: present in {count['present']}, matches in {count['matching']}"
    for number, alternative in enumerate(found.get("or", ()), 1):
        yield f"{indent}alternative {number}: matches in {alternative['matching']}"
        yield from _explained_paths(alternative, indent + "  ")


def _line(message: Message) -> str:
    found = {
        PAYLOAD_KEYS[message.type]: message.payload,
        "subscription_type": message.type,
        "timestamp": message.timestamp,
        **(message.position._asdict() if message.position else {}),
    }
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n"
