"""``manage.py run_alerts``: alert rules and their notifications; knows the terminal, no rule."""

from __future__ import annotations

from typing import Any

from channels.layers import get_channel_layer
from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.analytics.alerting.ledger import rules_in_force
from realtime.analytics.alerting.service import AlertService
from realtime.analytics.processing.runner import run_until_stopped
from realtime.analytics.registry import add_module_argument, discover
from realtime.cluster.servers import has_servers
from realtime.database import prepare_database
from realtime.management.children import add_parent_argument, end_with


class Command(BaseCommand):
    """Runs alert rules until it is stopped."""

    help = "Run the alert rules of the admin and of code, and notify by e-mail and webhook."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add_module_argument(parser)
        add_parent_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until SIGTERM or Ctrl-C."""
        if not has_servers(get_channel_layer()):
            raise CommandError("the channel layer is of one process: there is no log to read")
        prepare_database()
        discover(options["module"])
        end_with(options["parent"])
        names = ", ".join(sorted(rules_in_force())) or "none"
        run_until_stopped(AlertService(lambda: self._say(f"running alert rules: {names}")))
        self._say("stopped")

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
