"""``manage.py consume_kafka``: publishes what comes from a topic of Kafka."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.config import read_site_config
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.publishing.bridge import CannotConsume, run_consumer

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PASSWORD = "KAFKA_PASSWORD"  # noqa: S105 - where it is, not what it is


class Command(BaseCommand):
    """Runs until SIGTERM or Ctrl-C; several of the same group share the partitions."""

    help = "Publish the messages of a Kafka topic, each once, until interrupted."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare where messages come from and go to."""
        parser.add_argument("--brokers", default="127.0.0.1:9092", help="separated by commas")
        parser.add_argument("--topic", required=True)
        parser.add_argument("--group", default="realtime", help="the consumer group in Kafka")
        parser.add_argument("--type", required=True, choices=SUBSCRIPTION_TYPES)
        parser.add_argument("--batch", type=int, default=500, help="messages of one read")
        parser.add_argument("--security-protocol", default="PLAINTEXT", choices=PROTOCOLS)
        parser.add_argument("--sasl-mechanism", default="PLAIN", choices=MECHANISMS)
        parser.add_argument("--user", help=f"for SASL; the password is in {PASSWORD}")
        parser.add_argument(
            "--stop-on-invalid", action="store_true", help="end at a message that is no payload"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Consume."""
        try:
            from realtime.publishing.kafka import Origin, consume
        except ImportError:
            raise CommandError(
                "aiokafka is not installed: pip install -r requirements-kafka.txt"
            ) from None
        if not 1 <= options["batch"] <= 5000:
            raise CommandError("--batch: 1 to 5000")
        origin = Origin(
            options["brokers"],
            options["topic"],
            options["group"],
            options["batch"],
            options["security_protocol"],
            options["sasl_mechanism"],
            options["user"],
            read_site_config().kafka_password.get_secret_value() or None,
        )
        self.stderr.write(f"consume_kafka: {origin} into {options['type']}")
        try:
            done = run_consumer(
                options["type"],
                partial(consume, origin),
                stop_on_invalid=options["stop_on_invalid"],
            )
        except CannotConsume as error:
            raise CommandError(str(error)) from None
        self.stderr.write(f"consume_kafka: stopped; {done.summary()}")
