"""What goes wrong in a predictor: told once for each kind, with its traceback, and counted."""

from __future__ import annotations

import logging
import time
import traceback

logger = logging.getLogger(__name__)

# Seconds between lines that say how often it failed.
REPORT_INTERVAL = 60.0


class Failures:
    """The failures of one predictor."""

    def __init__(self, name: str) -> None:
        self._name = name
        # Exception type and the place that raised it.
        self._known: set[tuple[str, str, int]] = set()
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

    def log(self, error: Exception, what: str) -> bool:
        """Log an error with its traceback unless one of its kind has been; tell whether it was."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = (type(error).__name__, place.filename, place.lineno or 0)
        if kind in self._known:
            return False
        self._known.add(kind)
        logger.error("%s %s: %s", self._name, what, error, exc_info=error)
        return True

    def close(self) -> None:
        """Say how often it failed, if that has not been said."""
        if self._messages > self._reported:
            self._report()

    def _report(self) -> None:
        logger.warning("%s: no predictions of %d messages so far", self._name, self._messages)
        self._reported = self._messages
        self._due = time.monotonic() + REPORT_INTERVAL
