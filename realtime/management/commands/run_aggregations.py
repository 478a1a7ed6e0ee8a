"""``manage.py run_aggregations``: runs the aggregation rules; knows the terminal, no rules."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection

from realtime.analytics.aggregation.definitions import load_processors, load_rules
from realtime.analytics.processing.runner import NoLog, Runner, run_until_stopped
from realtime.analytics.registry import add_module_argument, discover
from realtime.management.children import add_parent_argument, end_with


class Command(BaseCommand):
    """Runs until stopped, together with others of its kind."""

    help = "Work out the aggregation rules of the admin and of apps' streams.py until stopped."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add_module_argument(parser)
        add_parent_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Say what there is to run, and run it."""
        discover(options["module"])
        end_with(options["parent"])
        try:
            rules = load_rules()
        except DatabaseError as error:
            raise CommandError(f"the database: {str(error).strip().splitlines()[0]}") from None
        finally:
            connection.close()
        names = ", ".join(sorted(rule.name for rule in rules)) or "none yet"
        self.stdout.write(f"run_aggregations: rules: {names}")
        self.stdout.flush()
        try:
            run_until_stopped(Runner("aggregations", load_processors))
        except NoLog as error:
            raise CommandError(str(error)) from None
