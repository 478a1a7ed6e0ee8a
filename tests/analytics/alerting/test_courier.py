"""Notifications: delivered to real servers, tried again, signed."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.utils import timezone

from realtime.analytics.alerting import courier
from realtime.analytics.alerting.courier import Courier, delay
from realtime.analytics.alerting.models import AlertRule, Notification
from realtime.analytics.alerting.signing import check_secret, sign
from realtime.database import Database
from tests.analytics.alerting.alerts import (
    ALERT,
    RESOLVED,
    add_rule,
    make_due,
    only,
    record,
)
from tests.support import wait_until
from tests.support.receivers import Mailbox, Receiver, Request

pytestmark = pytest.mark.django_db(transaction=True)


class Office:
    """A courier, from synchronous tests: an event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._database = Database()
        self.courier = self.run(self._make())

    async def _make(self) -> Courier:
        return Courier(self._database)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def deliver(self) -> int:
        """Try what is due, until nothing is; return in how many queues."""
        count: int = self.run(self._deliver())
        return count

    async def _deliver(self) -> int:
        await self.courier.deliver_due()
        tasks = list(self.courier.at_work.values())
        await asyncio.gather(*tasks)
        return len(tasks)

    def close(self) -> None:
        self.run(self.courier.close())
        self._database.close()
        # Until its connections are closed: a test database with any cannot be removed.
        self._database._executor.shutdown()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def office() -> Iterator[Office]:
    office = Office()
    yield office
    office.close()


# Webhooks


def test_a_signature_as_the_specification_has_it() -> None:
    """The specification's own example."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_€", "a" * 44])
def test_a_weak_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(ValueError) as error:
        check_secret(secret)
    assert not secret or secret == "whsec_" or secret not in str(error.value)


def signature(secret: str, request: Request) -> str:
    """Work a signature out as the specification words it, independently of the library.

    "The content to sign is composed by concatenating the id, timestamp and payload, separated by
    the full-stop character", with HMAC-SHA256 and the secret's bytes, encoded in base64.
    """
    key = b64decode(secret.removeprefix("whsec_"))
    head = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}."
    return "v1," + b64encode(hmac.digest(key, head.encode() + request.body, "sha256")).decode()


def test_a_webhook_is_tried_until_it_is_taken(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(courier, "WEBHOOK_TIMEOUT", 0.5)
    with Receiver(500, None, (302, {"location": "/elsewhere"})).running() as receiver:
        rule = add_rule(webhook_url=receiver.url)
        record(ALERT)
        for attempt, error in enumerate(
            ("answered 500", "no answer within 0.5 s", "answered 302"), 1
        ):
            began = timezone.now()
            assert office.deliver() == 1
            notification = only()
            assert (notification.attempts, notification.last_error, notification.status) == (
                attempt,
                error,
                "waiting",
            )
            assert notification.next_attempt_at is not None
            assert notification.next_attempt_at - began >= timedelta(seconds=delay(attempt))
            assert office.deliver() == 0
            make_due()
        assert office.deliver() == 1
        assert (only().status, only().attempts, only().last_error) == ("delivered", 4, "")
        make_due()
        assert office.deliver() == 0
    assert len(receiver.requests) == 4
    assert {request.path for request in receiver.requests} == {"/hook"}
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    for request in receiver.requests:
        assert request.headers["webhook-signature"] == signature(rule.webhook_secret, request)
        assert abs(time.time() - int(request.headers["webhook-timestamp"])) < 60
        assert msgspec.json.decode(request.body) == ALERT
        assert request.headers["content-type"] == "application/json"
    assert rule.webhook_secret not in caplog.text


def test_an_answer_without_an_end_holds_nothing_up(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of the head after another, and then of a body."""
    monkeypatch.setattr(courier, "WEBHOOK_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        add_rule(webhook_url=f"http://127.0.0.1:{listener.getsockname()[1]}/")
        record(ALERT)

        def answer(head: bytes, line: bytes) -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(head)
                while True:
                    connection.sendall(line)
                    time.sleep(0.01)  # a receiver that drips

        for head, error in (
            (b"HTTP/1.1 200 OK\r\n", "no answer within 0.5 s"),
            (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        ):
            thread = threading.Thread(target=answer, args=(head, b"a: b\r\n"))
            thread.start()
            office.deliver()
            assert only().last_error == error
            make_due()
            thread.join()


def test_a_receiver_that_is_not_there_is_tried_again(office: Office) -> None:
    receiver = Receiver()
    with receiver.running():
        pass
    add_rule(webhook_url=receiver.url)
    record(ALERT)
    office.deliver()
    assert only().last_error.startswith("ConnectError") and only().status == "waiting"


def test_what_is_resolved_waits_for_what_fired(office: Office) -> None:
    with Receiver(500).running() as receiver:
        add_rule(webhook_url=receiver.url)
        record(ALERT, RESOLVED)
        assert office.deliver() == 1
        assert office.deliver() == 0
        make_due()
        assert office.deliver() == 1
    bodies = [msgspec.json.decode(request.body)["state"] for request in receiver.requests]
    assert bodies == ["firing", "firing", "resolved"]


def test_a_receiver_may_ask_for_patience(office: Office) -> None:
    answers = [(429, {"retry-after": "3600"}), (503, {"retry-after": "soon"})]
    with Receiver(*answers).running() as receiver:
        add_rule(webhook_url=receiver.url)
        record(ALERT)
        for attempt, seconds in ((1, 3600.0), (2, delay(2))):
            office.deliver()
            notification = only()
            assert notification.attempts == attempt and notification.next_attempt_at is not None
            left = (notification.next_attempt_at - timezone.now()).total_seconds()
            assert seconds - 30 < left <= seconds
            make_due()


def test_410_turns_the_webhook_off(office: Office) -> None:
    with Receiver(410).running() as receiver:
        rule = add_rule(webhook_url=receiver.url)
        record(ALERT)
        office.deliver()
        assert only().status == "failed"
        rule.refresh_from_db()
        assert not rule.webhook_enabled
        record(RESOLVED)
        assert only().state == "firing"
    assert len(receiver.requests) == 1


def test_the_last_attempt_is_the_last(office: Office) -> None:
    with Receiver(500).running() as receiver:
        add_rule(webhook_url=receiver.url)
        record(ALERT)
        Notification.objects.update(attempts=courier.MAX_ATTEMPTS - 1)
        office.deliver()
        assert only().status == "failed"
    total = sum(map(delay, range(1, courier.MAX_ATTEMPTS)))
    assert 20 * 3600 < total < 48 * 3600


def test_an_attempt_that_was_cut_short_is_made_again(office: Office) -> None:
    add_rule(webhook_url="http://127.0.0.1:9/")
    record(ALERT)
    claimed = courier._claim(("late", "webhook"))  # by a process that was killed then
    assert claimed is not None
    assert office.deliver() == 0
    until = only().next_attempt_at
    assert until is not None
    left = (until - timezone.now()).total_seconds()
    assert courier.WEBHOOK_TIMEOUT + 5 < left <= courier.CLAIM["webhook"]
    assert courier.CLAIM["email"] > courier.EMAIL_TIMEOUT + 5
    make_due()
    with Receiver().running() as receiver:
        AlertRule.objects.update(webhook_url=receiver.url)  # put right meanwhile
        assert office.deliver() == 1
        assert only().status == "delivered"
        courier._finish(claimed, {"last_error": "late"})
        assert only().last_error == ""


@pytest.mark.parametrize("wrong_by", [timedelta(days=-1), timedelta(days=1)])
def test_processes_with_wrong_clocks_agree_on_what_is_due(
    office: Office, wrong_by: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_rule(webhook_url="http://127.0.0.1:9/")
    right = timezone.now
    with monkeypatch.context() as patch:
        patch.setattr(timezone, "now", lambda: right() + wrong_by)
        record(ALERT)
        assert courier._claim(("late", "webhook")) is not None
    assert office.deliver() == 0  # another process is at it
    make_due()
    with Receiver(500).running() as receiver:
        AlertRule.objects.update(webhook_url=receiver.url)
        with monkeypatch.context() as patch:
            patch.setattr(timezone, "now", lambda: right() + wrong_by)
            assert office.deliver() == 1
            assert office.deliver() == 0
        until = only().next_attempt_at
        assert until is not None and timedelta(seconds=10) < until - right() < timedelta(seconds=30)


def test_processes_share_the_work_and_keep_the_order_of_a_target() -> None:
    with Receiver().running() as receiver:
        rules = [add_rule(name=f"late{number}", webhook_url=receiver.url) for number in range(3)]
        record(
            *(
                ALERT | {"alert_id": f"{number:02}", "rule": rules[number % 3].name}
                for number in range(60)
            )
        )
        offices = [Office(), Office()]
        try:
            while Notification.objects.filter(delivered_at=None).exists():
                for office in offices:
                    office.run(office.courier.deliver_due())
        finally:
            for office in offices:
                office.close()
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert sorted(ids) == [f"{number:02}-firing" for number in range(60)]
    for first in range(3):
        assert [one for one in ids if int(one[:2]) % 3 == first] == sorted(ids)[first::3]


# Targets that hang


@pytest.mark.parametrize("rule", ["other", "late"])
def test_a_target_that_hangs_delays_no_other(office: Office, rule: str) -> None:
    """Neither that of another rule, nor the other target of the same one."""
    with Receiver(*[None] * 200).running() as hanging, Receiver().running() as receiver:
        add_rule(webhook_url=hanging.url, emails="" if rule == "other" else "a@example.com")
        record(*(ALERT | {"alert_id": f"hanging {number}"} for number in range(50)))
        Notification.objects.filter(channel="email").delete()
        office.run(office.courier.deliver_due())
        wait_until(lambda: bool(hanging.requests))
        if rule == "other":
            add_rule(name="other", webhook_url=receiver.url)
        record(ALERT | {"alert_id": "critical", "rule": rule})
        office.run(office.courier.deliver_due())
        critical = Notification.objects.filter(alert_id="critical").exclude(delivered_at=None)
        wait_until(critical.exists, 5)
        assert len(hanging.requests) == 1  # one at a time


def test_rules_with_the_same_target_that_hangs_hold_up_no_new_alert(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rules as there is room for: what is new goes first when there is room again."""
    monkeypatch.setattr(courier, "AT_ONCE", {"webhook": 2, "email": 2})
    monkeypatch.setattr(courier, "WEBHOOK_TIMEOUT", 0.5)
    with Receiver(*[None] * 9).running() as hanging, Receiver().running() as receiver:
        for number in range(4):
            add_rule(name=f"h{number}", webhook_url=hanging.url)
            record(ALERT | {"alert_id": f"h{number}", "rule": f"h{number}"})
        assert [office.deliver(), office.deliver(), office.deliver()] == [2, 2, 0]
        make_due()
        add_rule(name="new", webhook_url=receiver.url)
        record(ALERT | {"alert_id": "new", "rule": "new"})
        assert office.deliver() == 2
    assert [request.headers["webhook-id"] for request in receiver.requests] == ["new-firing"]


def test_a_notification_without_a_target_fails(office: Office) -> None:
    rule = add_rule(webhook_url="http://127.0.0.1:9/", emails="a@example.com")
    record(ALERT)
    rule.webhook_url = rule.emails = ""
    rule.save()
    office.deliver()
    errors = set(Notification.objects.values_list("last_error", flat=True))
    assert errors == {"the rule has no addresses", "the rule has no webhook, or it is turned off"}
    rule.delete()
    Notification.objects.filter(channel="email").update(next_attempt_at=timezone.now())
    office.deliver()
    assert Notification.objects.get(channel="email").last_error == "the rule was removed"
    assert not Notification.objects.filter(next_attempt_at__isnull=False).exists()


# E-mail


def test_an_email_is_sent_to_all_addresses(office: Office, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.DEFAULT_FROM_EMAIL = "Alerts <alerts@example.org>"
    with Mailbox(refuse=1).running() as mailbox:
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", mailbox.port
        add_rule(emails="a@example.com, b@example.com\nc@example.com")
        record(ALERT)
        office.deliver()
        assert "451" in only().last_error and only().status == "waiting"
        make_due()
        office.deliver()
        assert only().status == "delivered"
    (mail,) = mailbox.mails
    assert mailbox.recipients == [["a@example.com", "b@example.com", "c@example.com"]]
    assert mail["subject"] == "[critical] late firing of origin=JFK Bcc: all@example.com"
    assert mail["bcc"] is None
    assert mail["message-id"] == "<7d0f-firing@example.org>"
    assert mail["from"] == "Alerts <alerts@example.org>"
    text = mail.get_content()
    assert text.startswith("late: v of origin=JFK is 75.2, above 60")
    assert "threshold: 60.0" in text and "resolved_at" not in text


def test_without_a_mail_server_it_is_tried_again(office: Office, settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    with Mailbox().running() as mailbox:
        port = mailbox.port
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
    add_rule(emails="a@example.com")
    record(ALERT)
    office.deliver()
    assert only().last_error.startswith("ConnectionRefusedError") and only().status == "waiting"
