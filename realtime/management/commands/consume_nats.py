"""``manage.py consume_nats``: publishes the messages of a NATS JetStream stream."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from realtime.management.consuming import ConsumingCommand
from realtime.publishing.bridge import Source


class Command(ConsumingCommand):
    """Several with the same durable name share the messages."""

    help = "Publish the messages of a NATS JetStream stream, each once, until interrupted."
    requirements = "requirements-nats.txt"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--servers", default="nats://127.0.0.1:4222", help="separated by commas"
        )
        parser.add_argument("--stream", help="default: the stream that has the subject")
        parser.add_argument("--subject", default="", help="default: all subjects of the stream")
        parser.add_argument("--durable", default="realtime", help="the consumer's name in NATS")
        parser.add_argument("--credentials", help="a file with NATS credentials")
        parser.add_argument(
            "--dead-letter", metavar="SUBJECT", help="gets the messages that are no payloads"
        )
        parser.add_argument(
            "--ack-wait",
            type=float,
            default=30.0,
            help="seconds until NATS sends a message again that was not acknowledged",
        )

    def make_source(self, options: dict[str, Any]) -> Source:
        from realtime.publishing.nats import NatsSource

        if not options["stream"] and not options["subject"]:
            raise CommandError("name a --stream, a --subject or both")
        if options["ack_wait"] < 1:
            raise CommandError("--ack-wait: must be 1 or more")
        return NatsSource(
            [server.strip() for server in options["servers"].split(",")],
            options["stream"],
            options["subject"],
            options["durable"],
            options["ack_wait"],
            options["credentials"],
            options["dead_letter"],
        )
