"""``manage.py run_predictors``: runs what is declared with ``@realtime.predictor``."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from django.core.management.base import CommandParser

from realtime.analytics.predictions.definitions import predictors
from realtime.analytics.predictions.processor import PredictorProcessor
from realtime.analytics.processing.runner import Runner
from realtime.management.processing import ProcessingCommand


class Command(ProcessingCommand):
    """Runs all predictors, or those that are named."""

    help = "Run predictors: they read a type's messages and publish predictions."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("names", nargs="*", metavar="NAME", help="of a predictor; default: all")

    def make_runner(self, options: dict[str, Any]) -> Runner:
        chosen = predictors.select(options["names"])
        self.say(f"predictors: {', '.join(predictor.name for predictor in chosen)}")
        # Only processes with the same predictors can share the work: their group is named so.
        names = ",".join(predictor.name for predictor in chosen)
        group = f"predictors:{sha256(names.encode()).hexdigest()[:16]}"
        return Runner(
            group,
            lambda: [PredictorProcessor(predictor) for predictor in chosen],
            paused=lambda: [predictor.name for predictor in predictors],
        )
