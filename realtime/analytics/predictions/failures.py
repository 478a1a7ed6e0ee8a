"""The failures of a predictor: each kind is logged once, with a traceback, and all are counted."""

from __future__ import annotations

import logging
import time
import traceback

logger = logging.getLogger(__name__)

# Seconds between lines that say how often it failed.
REPORT_INTERVAL = 60.0


class PredictorFailures:
    """The failures of one predictor."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Exception type and the place that raised it, of failures that have been logged.
        self._logged: set[tuple[str, str, int]] = set()
        self._messages = 0
        self._reported = 0
        self._due = 0.0

    def add(self, error: Exception, messages: int) -> None:
        """Count messages of which there are no predictions because of an error."""
        self._messages += messages
        if self.log(error, f"skips {messages} messages"):
            self._due = self._due or time.monotonic() + REPORT_INTERVAL
        if time.monotonic() >= self._due:
            self._report()

    def log(self, error: Exception, consequence: str) -> bool:
        """Log an error unless the same was logged before; tell whether it was logged now."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        failure = (type(error).__name__, place.filename, place.lineno or 0)
        if failure in self._logged:
            return False
        self._logged.add(failure)
        logger.error("%s %s: %s", self._name, consequence, error, exc_info=error)
        return True

    def close(self) -> None:
        """Log how often it failed, unless that has been logged."""
        if self._messages > self._reported:
            self._report()

    def _report(self) -> None:
        logger.warning("%s: no predictions of %d messages so far", self._name, self._messages)
        self._reported = self._messages
        self._due = time.monotonic() + REPORT_INTERVAL
