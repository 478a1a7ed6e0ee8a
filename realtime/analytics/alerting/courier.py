"""Delivers notifications, and tries those again for a day that were not delivered.

Before an attempt, a process claims it in the database for longer than an attempt can take. So
processes share the work, and one does what another did not finish. A notification may arrive twice,
with the same id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx
from django.db.models import Exists, F, OuterRef
from django.utils import timezone

from realtime.analytics.alerting import email, ledger, signing, webhook
from realtime.analytics.alerting.messages import FIRING, RESOLVED
from realtime.analytics.alerting.models import EMAIL, Notification
from realtime.database import Database

logger = logging.getLogger(__name__)

# Notifications that are being delivered at the same time.
BATCH = 20
# Seconds that a process has for an attempt; no attempt takes as long.
CLAIM = 60.0
EMAIL_TIMEOUT = 30.0
# Seconds until the next attempt: after the first, then four times as long each time. All attempts
# together take a day.
FIRST_DELAY, FACTOR, MAX_DELAY = 5.0, 4.0, 6 * 3600.0
MAX_ATTEMPTS = 11
MAX_ERROR = 300


def delay(attempts: int) -> float:
    """Return the seconds to wait after so many attempts."""
    return min(FIRST_DELAY * FACTOR ** (attempts - 1), MAX_DELAY)


class Courier:
    """Delivers what is due. Used in one event loop; the caller must close it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._client = httpx.AsyncClient(timeout=webhook.TIMEOUT, follow_redirects=False)

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def deliver_due(self) -> int:
        """Try each notification that is due once, all at the same time; return how many there were.

        Raises:
            realtime.database.Unavailable: the database does not answer.
        """
        claimed = await self._database.run(_claim)
        results = await asyncio.gather(*map(self._deliver, claimed), return_exceptions=True)
        for failure in filter(None, results):
            raise failure
        return len(claimed)

    async def _deliver(self, notification: Notification) -> None:
        try:
            await self._try(notification)
            result = {"delivered_at": timezone.now(), "next_attempt_at": None, "last_error": ""}
        except webhook.NotDelivered as error:
            result = _failure(notification, error)
            logger.warning("%s: attempt %d: %s", notification, notification.attempts, error)
        await self._database.run(_finish, notification, result)

    async def _try(self, notification: Notification) -> None:
        """Deliver a notification. Raises :class:`webhook.NotDelivered`."""
        targets = await self._database.run(ledger.targets, notification.rule)
        message_id = f"{notification.alert_id}-{notification.state}"
        if targets is None:
            raise webhook.Gone("the rule was removed")
        if notification.channel == EMAIL:
            await _send_email(targets.emails, notification.body, message_id)
            return
        if not targets.webhook_url:
            raise webhook.Gone("the rule has no webhook, or it is turned off")
        body = notification.body
        headers = signing.sign(targets.webhook_secret, message_id, int(time.time()), body)
        try:
            await webhook.post(self._client, targets.webhook_url, body.encode(), headers)
        except webhook.Gone:
            url = targets.webhook_url
            await self._database.run(ledger.turn_webhook_off, notification.rule, url)
            raise


async def _send_email(addresses: Any, body: str, message_id: str) -> None:
    if not addresses:
        raise webhook.Gone("the rule has no addresses")
    try:
        async with asyncio.timeout(EMAIL_TIMEOUT):
            await asyncio.to_thread(email.send, addresses, body, message_id)
    except TimeoutError:
        raise webhook.NotDelivered(f"not sent within {EMAIL_TIMEOUT:g} s") from None
    except Exception as error:  # whatever a mail backend raises
        raise webhook.NotDelivered(f"{type(error).__name__}: {error}") from error


def _claim() -> list[Notification]:
    """Return the notifications that are due and claim them; resolved ones wait for firing ones."""
    now = timezone.now()
    siblings = Notification.objects.filter(
        alert_id=OuterRef("alert_id"), channel=OuterRef("channel"), state=FIRING
    )
    fires_first = Exists(siblings.filter(next_attempt_at__isnull=False))
    due = Notification.objects.filter(next_attempt_at__lte=now).order_by("next_attempt_at", "pk")
    claimed = []
    until = now + timedelta(seconds=CLAIM)
    for notification in due.exclude(fires_first, state=RESOLVED)[:BATCH]:
        unclaimed = Notification.objects.filter(
            pk=notification.pk, next_attempt_at=notification.next_attempt_at
        )
        if unclaimed.update(attempts=F("attempts") + 1, next_attempt_at=until):
            notification.attempts += 1
            claimed.append(notification)
    return claimed


def _failure(notification: Notification, error: webhook.NotDelivered) -> dict[str, Any]:
    """Return the fields to save: the error, and when to try again, if at all."""
    is_last = notification.attempts >= MAX_ATTEMPTS or isinstance(error, webhook.Gone)
    seconds = max(delay(notification.attempts), error.retry_after)
    return {
        "last_error": "".join(c if c.isprintable() else " " for c in str(error))[:MAX_ERROR],
        "next_attempt_at": None if is_last else timezone.now() + timedelta(seconds=seconds),
    }


def _finish(notification: Notification, result: Mapping[str, Any]) -> None:
    """Save how an attempt ended, unless another one has begun since."""
    Notification.objects.filter(pk=notification.pk, attempts=notification.attempts).update(**result)
