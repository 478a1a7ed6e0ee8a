"""``manage.py consume_kafka``: publishes the messages of a Kafka topic."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from realtime.config import read_site_config
from realtime.management.consuming import ConsumingCommand
from realtime.publishing.bridge import Source

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PASSWORD = "KAFKA_PASSWORD"  # noqa: S105 - the variable's name, not the password


class Command(ConsumingCommand):
    """Several of the same group share the partitions."""

    help = "Publish the messages of a Kafka topic, each once, until interrupted."
    requirements = "requirements-kafka.txt"

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--brokers", default="127.0.0.1:9092", help="separated by commas")
        parser.add_argument("--topic", required=True)
        parser.add_argument("--group", default="realtime", help="the consumer group in Kafka")
        parser.add_argument("--security-protocol", default="PLAINTEXT", choices=PROTOCOLS)
        parser.add_argument("--sasl-mechanism", default="PLAIN", choices=MECHANISMS)
        parser.add_argument(
            "--user", help=f"for SASL; the password is read from the variable {PASSWORD}"
        )

    def make_source(self, options: dict[str, Any]) -> Source:
        from realtime.publishing.kafka import KafkaSource

        return KafkaSource(
            options["brokers"],
            options["topic"],
            options["group"],
            options["security_protocol"],
            options["sasl_mechanism"],
            options["user"],
            read_site_config().kafka_password.get_secret_value() or None,
        )
