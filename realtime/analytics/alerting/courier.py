"""What ``run_alerts`` does: runs alert rules, records their alerts, and delivers notifications.

They go by webhook and e-mail, and those that failed are tried again for a day.
Before an attempt, a process claims it in the database for longer than an attempt can take. So
processes share the work, and one does what another did not finish. A notification may arrive twice,
with the same id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from email.utils import parseaddr
from typing import Any, TypeVar

import httpx
import msgspec
from django.conf import settings
from django.core.mail import EmailMessage
from django.db.models import Exists, F, OuterRef
from django.utils import timezone

from realtime.analytics.alerting import ledger, signing
from realtime.analytics.alerting.incidents import FIRING, RESOLVED, group_text
from realtime.analytics.alerting.models import EMAIL, AlertRule, Notification
from realtime.analytics.processing.runner import END, Runner
from realtime.database import Database, Unavailable
from realtime.log import get_log
from realtime.protocol import Position
from realtime.tasks import is_cancelled

logger = logging.getLogger(__name__)

# Notifications that are being delivered at the same time.
BATCH = 20
# Seconds that a process has for an attempt; no attempt takes as long.
CLAIM = 60.0
EMAIL_TIMEOUT = 30.0
WEBHOOK_TIMEOUT = 10.0
# Seconds until the next attempt: after the first, then four times as long each time. All attempts
# together take a day.
FIRST_DELAY, FACTOR, MAX_DELAY = 5.0, 4.0, 6 * 3600.0
MAX_ATTEMPTS = 11
MAX_ERROR = 300
MAX_SUBJECT = 150
# Seconds between looks at the alerts, at what is due, and at what can be deleted.
READ_INTERVAL = 0.25
DELIVER_INTERVAL = 0.5
PRUNE_INTERVAL = 3600.0
RETRY_INTERVAL = 1.0

T = TypeVar("T")


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
            headers=headers, timeout=WEBHOOK_TIMEOUT, follow_redirects=False
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def deliver_due(self) -> int:
        """Try each notification that is due once, all at the same time; return how many there were.

        Raises :class:`realtime.database.Unavailable`.
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
    EmailMessage(subject, text, None, list(addresses), headers=headers).send()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


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


def _failure(notification: Notification, error: NotDelivered) -> dict[str, Any]:
    """Return the fields to save: the error, and when to try again, if at all."""
    is_last = notification.attempts >= MAX_ATTEMPTS or isinstance(error, Gone)
    seconds = max(delay(notification.attempts), error.retry_after)
    return {
        "last_error": _printable(str(error))[:MAX_ERROR],
        "next_attempt_at": None if is_last else timezone.now() + timedelta(seconds=seconds),
    }


def _finish(notification: Notification, result: Mapping[str, Any]) -> None:
    """Save how an attempt ended, unless another one has begun since."""
    Notification.objects.filter(pk=notification.pk, attempts=notification.attempts).update(**result)


class AlertService:
    """Runs alert rules and notifies. Several may run; they share the work.

    *started* is called when it runs and can be stopped.
    """

    def __init__(self, started: Callable[[], None]) -> None:
        self._started = started
        self._runner = Runner("alerts", ledger.load_processors)
        self._database = Database()
        self._courier = Courier(self._database)
        # How far alerts have been read, as far as this process knows.
        self._position: Position | None = None
        self._pruned_at = 0.0

    async def run(self) -> None:
        """Run until cancelled. Raises :class:`realtime.analytics.processing.runner.NoLog`."""
        try:
            # Before any rule of this process can publish: the first alert is read too.
            await self._begin()
            if is_cancelled():
                return
            self._started()
            await asyncio.gather(
                self._runner.run(),
                _repeat("reading alerts", self._read, READ_INTERVAL),
                _repeat("notifying", self._notify, DELIVER_INTERVAL),
            )
        finally:
            await self._courier.close()
            self._database.close()

    async def _begin(self) -> None:
        """Find out how far alerts have been read, as soon as log and database answer."""
        while self._position is None and not is_cancelled():
            try:
                chunk = await get_log().read("alerts", END)
                head = Position(chunk.epoch, chunk.head)
                self._position = await self._database.run(ledger.begin, head)
            except Unavailable as error:
                logger.warning("starting: %s", error)
                await asyncio.sleep(RETRY_INTERVAL)

    async def _read(self) -> bool:
        """Read alerts once and record them; tell whether there may be more."""
        assert self._position is not None
        before, log = self._position, get_log()
        chunk = await log.read("alerts", before.offset)
        shared = chunk.shared(before)
        bodies = [entry.body for entry in chunk.entries]
        if chunk.epoch != before.epoch and shared != before.offset:
            after, bodies = Position(chunk.epoch, shared or 0), []
            logger.warning(
                "the log of alerts was lost after %s: nobody is notified of these alerts", before
            )
        elif chunk.entries:
            after = Position(chunk.epoch, chunk.first + len(chunk.entries) - 1)
            if chunk.first > before.offset + 1:
                logger.warning(
                    "alerts between %s and %d were lost: nobody is notified of them",
                    before,
                    chunk.first,
                )
        else:
            if before.offset > chunk.head:
                await log.renew("alerts", before)
            return False
        if await self._database.run(ledger.record, before, after, bodies):
            self._position = after
        else:  # another process has
            self._position = await self._database.run(ledger.begin, before)
        return True

    async def _notify(self) -> bool:
        """Deliver once what is due; tell whether there may be more."""
        if time.monotonic() - self._pruned_at > PRUNE_INTERVAL or not self._pruned_at:
            self._pruned_at = time.monotonic()
            await self._database.run(ledger.prune)
        return bool(await self._courier.deliver_due())


async def _repeat(task: str, step: Callable[[], Awaitable[bool]], interval: float) -> None:
    """Repeat a step, with a pause when it had nothing to do or has failed."""
    while not is_cancelled():
        try:
            is_busy = await step()
        except Unavailable as error:
            logger.warning("%s: %s", task, error)
            await asyncio.sleep(RETRY_INTERVAL)
        except Exception:
            logger.exception(task)
            await asyncio.sleep(RETRY_INTERVAL)
        else:
            if not is_busy:
                await asyncio.sleep(interval)
