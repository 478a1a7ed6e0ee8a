"""Delivers notifications by webhook and e-mail; tries those that failed again for a day.

The webhook of a rule and its e-mails are a queue each: in one, notifications are delivered one
after another, and no queue waits for another. Before an attempt, a process claims it in the
database for longer than an attempt can take, by the database's clock. So processes share the work,
and one does what another did not finish. A notification may arrive twice, with the same id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from email.utils import parseaddr
from typing import Any, TypeVar

import httpx
import msgspec
from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.db.models import Exists, F, Min, OuterRef, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from realtime.analytics.alerting import ledger, signing
from realtime.analytics.alerting.incidents import FIRING, RESOLVED, group_text
from realtime.analytics.alerting.models import EMAIL, WEBHOOK, AlertRule, Notification
from realtime.database import Database, Unavailable
from realtime.tasks import end

logger = logging.getLogger(__name__)

# Queues of a channel in which a process delivers at the same time.
AT_ONCE = {WEBHOOK: 100, EMAIL: 10}
EMAIL_TIMEOUT = 30.0
WEBHOOK_TIMEOUT = 10.0
# Seconds that a process has for an attempt; no attempt takes as long.
CLAIM = {WEBHOOK: 20.0, EMAIL: 40.0}
# Seconds until the next attempt: after the first, then four times as long each time. All attempts
# together take a day.
FIRST_DELAY, FACTOR, MAX_DELAY = 5.0, 4.0, 6 * 3600.0
MAX_ATTEMPTS = 11
MAX_ERROR = 300
MAX_SUBJECT = 150

T = TypeVar("T")
# A rule's name and a channel.
Queue = tuple[str, str]


class NotDelivered(Exception):
    """The receiver did not take it. ``retry_after`` is what it asked for, in seconds."""

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Gone(NotDelivered):
    """There is no receiver any more, or it wants no more."""


def delay(attempts: int) -> float:
    """Return the seconds to wait after so many attempts."""
    return min(FIRST_DELAY * FACTOR ** (attempts - 1), MAX_DELAY)


class Courier:
    """Delivers what is due. Used in one event loop; the caller must close it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        headers = {"content-type": "application/json", "user-agent": "realtime-alerts"}
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=WEBHOOK_TIMEOUT,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=AT_ONCE[WEBHOOK]),
        )
        # Queue -> the task that delivers what is due there.
        self.at_work: dict[Queue, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """End attempts that are under way, and close its connections."""
        for task in list(self.at_work.values()):
            await end(task)
        await self._client.aclose()

    async def deliver_due(self) -> None:
        """Begin to deliver in each queue in which something is due; waits for no target.

        Raises :class:`realtime.database.Unavailable`.
        """
        for queue in await self._database.run(_due_queues):
            channel = queue[1]
            is_full = sum(other == channel for _, other in self.at_work) >= AT_ONCE[channel]
            if queue not in self.at_work and not is_full:
                self.at_work[queue] = asyncio.create_task(self._serve(queue))

    async def _serve(self, queue: Queue) -> None:
        """Try each notification of a queue once that is due, one after another."""
        try:
            while notification := await self._database.run(_claim, queue):
                await self._deliver(notification)
        except Unavailable as error:
            logger.warning("notifying: %s", error)
        except Exception:
            logger.exception("notifying")
        finally:
            del self.at_work[queue]

    async def _deliver(self, notification: Notification) -> None:
        try:
            await self._try(notification)
            result = {"delivered_at": timezone.now(), "next_attempt_at": None, "last_error": ""}
        except NotDelivered as error:
            result = _failure(notification, error)
            logger.warning("%s: attempt %d: %s", notification, notification.attempts, error)
        await self._database.run(_finish, notification, result)

    async def _try(self, notification: Notification) -> None:
        """Deliver a notification. Raises :class:`NotDelivered`."""
        targets = await self._database.run(ledger.targets, notification.rule)
        message_id, body = f"{notification.alert_id}-{notification.state}", notification.body
        if targets is None:
            raise Gone("the rule was removed")
        if notification.channel == EMAIL:
            if not targets.emails:
                raise Gone("the rule has no addresses")
            sending = asyncio.to_thread(_send_email, targets.emails, body, message_id)
            await _in_time(sending, EMAIL_TIMEOUT, "not sent")
            return
        if not targets.webhook_url:
            raise Gone("the rule has no webhook, or it is turned off")
        headers = signing.sign(targets.webhook_secret, message_id, int(time.time()), body)
        posting = self._post(targets.webhook_url, body.encode(), headers)
        answer = await _in_time(posting, WEBHOOK_TIMEOUT, "no answer")
        if answer.status_code == httpx.codes.GONE:
            # Unless the rule has another URL by now.
            rules = AlertRule.objects.filter(
                name=notification.rule, webhook_url=targets.webhook_url
            )
            await self._database.run(lambda: rules.update(webhook_enabled=False))
            raise Gone("answered 410 Gone: the webhook is turned off")
        if not answer.is_success:
            patience = _seconds(answer.headers.get("retry-after", ""))
            raise NotDelivered(f"answered {answer.status_code}", patience)

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """Post once and return the head of the answer; its body is not read."""
        async with self._client.stream("POST", url, content=body, headers=headers) as answer:
            return answer


async def _in_time(attempt: Awaitable[T], seconds: float, failure: str) -> T:
    """Wait for an attempt. Raises :class:`NotDelivered` if it fails or takes too long."""
    try:
        async with asyncio.timeout(seconds):
            return await attempt
    except TimeoutError:
        raise NotDelivered(f"{failure} within {seconds:g} s") from None
    except Exception as error:  # whatever a mail backend or httpx raises
        raise NotDelivered(f"{type(error).__name__}: {error}") from error


def _seconds(text: str) -> float:
    """Read a ``Retry-After`` of seconds, a day at most; 0 for anything else."""
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    return float(min(int(text), 86_400)) if is_number else 0.0


def _send_email(addresses: Sequence[str], body: str, message_id: str) -> None:
    """Send one e-mail to all addresses, the way Django's settings say."""
    alert: dict[str, Any] = msgspec.json.decode(body)
    subject = f"[{alert['severity']}] {alert['rule']} {alert['state']}{group_text(alert['group'])}"
    subject = " ".join(_printable(subject).split())[:MAX_SUBJECT]
    names = ("state", "severity", "value", "threshold", "started_at", "resolved_at", "alert_id")
    lines = [f"{name}: {alert[name]}" for name in names if alert.get(name) is not None]
    lines += [f"{path}: {value}" for path, value in alert["group"].items()]
    text = "\n".join([str(alert["message"]), "", *lines, ""])
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    # The same id again when it is sent again.
    headers = {"Message-ID": f"<{message_id}@{domain}>", "Auto-Submitted": "auto-generated"}
    connection = get_connection(timeout=EMAIL_TIMEOUT)  # its thread ends when nobody waits for it
    EmailMessage(
        subject, text, None, list(addresses), headers=headers, connection=connection
    ).send()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _due_queues() -> list[Queue]:
    """Return the queues to deliver in, first those that have something new."""
    queues = _due().order_by().values("rule", "channel")
    in_order = queues.annotate(tries=Min("attempts"), first=Min("pk")).order_by("tries", "first")
    busy = set(_under_way().values_list("rule", "channel"))
    return [queue for queue in in_order.values_list("rule", "channel") if queue not in busy]


def _due() -> QuerySet[Notification]:
    """Return what is due; that an alert is resolved is due when it has been told that it fires."""
    siblings = Notification.objects.filter(
        alert_id=OuterRef("alert_id"), channel=OuterRef("channel"), state=FIRING
    )
    fires_first = Exists(siblings.filter(next_attempt_at__isnull=False))
    due = Notification.objects.filter(next_attempt_at__lte=Now())
    return due.exclude(fires_first, state=RESOLVED)


def _under_way() -> QuerySet[Notification]:
    """Return what some process is delivering: what :func:`_claim` has left as it is."""
    return Notification.objects.filter(attempts__gt=0, last_error="", next_attempt_at__gt=Now())


def _claim(queue: Queue) -> Notification | None:
    """Return the oldest notification that is due in a queue, claimed.

    ``None`` if there is none, or if another process delivers in this queue.
    """
    rule, channel = queue
    notification = _due().filter(rule=rule, channel=channel).order_by("pk").first()
    # In this order: whoever is about to claim it has seen the same one.
    if notification is None or _under_way().filter(rule=rule, channel=channel).exists():
        return None
    unclaimed = Notification.objects.filter(
        pk=notification.pk, attempts=notification.attempts, next_attempt_at__lte=Now()
    )
    until = Now() + timedelta(seconds=CLAIM[channel])
    if not unclaimed.update(attempts=F("attempts") + 1, next_attempt_at=until, last_error=""):
        return None
    notification.attempts += 1
    return notification


def _failure(notification: Notification, error: NotDelivered) -> dict[str, Any]:
    """Return the fields to save: the error, and when to try again, if at all."""
    is_last = notification.attempts >= MAX_ATTEMPTS or isinstance(error, Gone)
    seconds = max(delay(notification.attempts), error.retry_after)
    return {
        "last_error": _printable(str(error))[:MAX_ERROR],
        "next_attempt_at": None if is_last else Now() + timedelta(seconds=seconds),
    }


def _finish(notification: Notification, result: Mapping[str, Any]) -> None:
    """Save how an attempt ended, unless another one has begun since."""
    Notification.objects.filter(pk=notification.pk, attempts=notification.attempts).update(**result)
