"""``manage.py run_predictors``: runs what is declared with ``@realtime.predictor``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.analytics.predictions.definitions import Predictor, predictors
from realtime.analytics.predictions.processor import PredictorProcessor
from realtime.analytics.processing.contract import AnyProcessor
from realtime.analytics.processing.runner import NoLog, Runner, run_until_stopped
from realtime.analytics.registry import add_module_argument, discover
from realtime.management.children import add_parent_argument, end_with


class Command(BaseCommand):
    """Runs predictors until it is stopped, and shares them with others that run the same."""

    help = "Run predictors: they read a type's messages and publish predictions."
    requires_system_checks = ()  # `check --deploy` has them; a start should be quick

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("names", nargs="*", metavar="NAME", help="of a predictor; default: all")
        add_module_argument(parser)
        add_parent_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until SIGTERM or Ctrl-C."""
        discover(options["module"])
        chosen = predictors.select(options["names"])
        end_with(options["parent"])
        self.stderr.write(f"run_predictors: {', '.join(one.name for one in chosen)}")
        try:
            run_until_stopped(Runner(_group(chosen), lambda: _processors(chosen)))
        except NoLog as error:
            raise CommandError(f"run_predictors: {error}") from None


def _group(chosen: Sequence[Predictor]) -> str:
    """Name those who share this work: only processes with the same predictors can."""
    names = ",".join(one.name for one in chosen)
    return f"predictors:{sha256(names.encode()).hexdigest()[:16]}"


def _processors(chosen: Sequence[Predictor]) -> Iterable[AnyProcessor]:
    return [PredictorProcessor(one) for one in chosen]
