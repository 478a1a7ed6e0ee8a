"""``manage.py run_aggregations``: runs the aggregation rules."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, connection

from realtime.analytics.aggregation.definitions import load_paused, load_processors, load_rules
from realtime.analytics.processing.runner import Runner
from realtime.management.processing import ProcessingCommand
from realtime.management.running import one_line


class Command(ProcessingCommand):
    """Runs the rules that there are, also those that come and change meanwhile."""

    help = "Work out the aggregation rules of the admin and of apps' streams.py until stopped."

    def make_runner(self, options: dict[str, Any]) -> Runner:
        try:
            names = ", ".join(sorted(rule.name for rule in load_rules())) or "none yet"
        except DatabaseError as error:
            raise CommandError(f"the database: {one_line(error)}") from None
        finally:
            connection.close()
        self.say(f"rules: {names}")
        return Runner("aggregations", load_processors, paused=load_paused)
