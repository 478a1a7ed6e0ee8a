"""``manage.py consume_nats``: publishes what comes from a stream of NATS JetStream."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.publishing.bridge import CannotConsume, run_consumer


class Command(BaseCommand):
    """Runs until SIGTERM or Ctrl-C; several with the same durable name share the messages."""

    help = "Publish the messages of a NATS JetStream stream, each once, until interrupted."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare where messages come from and go to."""
        parser.add_argument(
            "--servers", default="nats://127.0.0.1:4222", help="separated by commas"
        )
        parser.add_argument("--stream", help="by default the one that has the subject")
        parser.add_argument("--subject", default="", help="by default all of the stream")
        parser.add_argument("--type", required=True, choices=SUBSCRIPTION_TYPES)
        parser.add_argument("--durable", default="realtime", help="the consumer's name in NATS")
        parser.add_argument("--credentials", help="a file of NATS credentials")
        parser.add_argument("--batch", type=int, default=500, help="messages of one pull")
        parser.add_argument(
            "--ack-wait", type=float, default=30.0, help="seconds until NATS sends one again"
        )
        parser.add_argument(
            "--stop-on-invalid", action="store_true", help="end at a message that is no payload"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Consume."""
        try:
            from realtime.publishing.nats import Origin, consume
        except ImportError:
            raise CommandError(
                "nats-py is not installed: pip install -r requirements-nats.txt"
            ) from None
        if not options["stream"] and not options["subject"]:
            raise CommandError("name a --stream, a --subject or both")
        if not 1 <= options["batch"] <= 5000 or options["ack_wait"] < 1:
            raise CommandError("--batch: 1 to 5000; --ack-wait: 1 or more")
        origin = Origin(
            [server.strip() for server in options["servers"].split(",")],
            options["stream"],
            options["subject"],
            options["durable"],
            options["batch"],
            options["ack_wait"],
            options["credentials"],
        )
        what = " ".join(filter(None, (options["stream"], options["subject"])))
        self.stderr.write(f"consume_nats: {what} into {options['type']}")
        try:
            done = run_consumer(
                options["type"],
                partial(consume, origin),
                stop_on_invalid=options["stop_on_invalid"],
            )
        except CannotConsume as error:
            raise CommandError(str(error)) from None
        self.stderr.write(f"consume_nats: stopped; {done.summary()}")
