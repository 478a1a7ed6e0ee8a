"""``manage.py run_alerts``: runs the alert rules, and notifies."""

from __future__ import annotations

from typing import Any

from realtime.analytics.alerting.ledger import rules_in_force
from realtime.analytics.alerting.service import AlertService
from realtime.management.database import prepare_database
from realtime.management.processing import ProcessingCommand


class Command(ProcessingCommand):
    """Runs the rules that there are, also those that come and change meanwhile."""

    help = "Run the alert rules of the admin and of code, and notify by e-mail and webhook."

    def make_runner(self, options: dict[str, Any]) -> AlertService:
        prepare_database()
        names = ", ".join(sorted(rules_in_force())) or "none yet"
        return AlertService(lambda: self.say(f"rules: {names}"))
