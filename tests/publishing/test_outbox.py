"""The outbox and its relay in one process: what is written when, and published how often."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client

from realtime import apublish, apublish_many, publish, publish_many
from realtime.cluster.embedded import EmbeddedServer
from realtime.log import get_log
from realtime.publishing.outbox import MAX_MESSAGES, OutboxMessage, Relay
from tests.support.layers import Configure, close_layer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("valkey")]

OUTBOX = "/admin/realtime/outboxmessage/"


async def _log(kind: str) -> list[bytes]:
    try:
        chunk = await get_log().read(kind, 0)
        entries = list(chunk.entries)
        while entries and chunk.first + len(chunk.entries) <= chunk.head:
            chunk = await get_log().read(kind, chunk.first + len(chunk.entries) - 1)
            entries += chunk.entries
        return [entry.body for entry in entries]
    finally:
        await close_layer()


def logged(kind: str = "events") -> list[bytes]:
    """Return all payloads in a type's log."""
    return async_to_sync(_log)(kind)


@pytest.fixture
def before() -> int:
    """How many messages the log of events has."""
    return len(logged())


@pytest.fixture
def relay() -> Relay:
    """A relay whose turn it is."""
    found = Relay()
    found.begin()
    return found


def relay_all(relay: Relay) -> None:
    """Publish all there is."""
    while relay.step():
        pass
    assert not relay.has_waiting()


def numbers(payloads: list[bytes]) -> list[int]:
    """Return the numbers in payloads."""
    return [int(payload.removeprefix(b'{"n":').removesuffix(b"}")) for payload in payloads]


def test_what_commits_is_published_and_nothing_else(relay: Relay, before: int) -> None:
    with transaction.atomic():
        assert publish("events", {"n": 1}, durable=True) is None
        with pytest.raises(KeyError), transaction.atomic():
            publish("events", {"n": 2}, durable=True)
            raise KeyError
        publish("events", {"n": 3}, durable=True)
        assert logged()[before:] == []
    with pytest.raises(KeyError), transaction.atomic():
        publish("events", {"n": 4}, durable=True)
        raise KeyError
    publish("events", {"n": 5}, durable=True)
    assert publish_many("events", [{"n": 6}, {"n": 7}], durable=True) == []
    async_to_sync(apublish)("events", {"n": 8}, durable=True)
    async_to_sync(apublish_many)("events", iter([{"n": 9}]), durable=True)
    relay_all(relay)
    assert numbers(logged()[before:]) == [1, 3, 5, 6, 7, 8, 9]
    assert OutboxMessage.objects.count() == 0


@pytest.mark.parametrize(
    ("kind", "payload", "options"),
    [
        ("nothing", {}, {}),
        ("events", [], {}),
        ("events", {"n": float("nan")}, {}),
        ("events", {"text": "x" * 2_000_000}, {}),
        ("events", {}, {"on_commit": True}),
    ],
)
def test_what_cannot_be_published_is_not_written(
    kind: str, payload: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"type|payload|on_commit"):
        publish(kind, payload, durable=True, **options)
    assert OutboxMessage.objects.count() == 0


def test_text_of_all_kinds_is_kept(relay: Relay, before: int) -> None:
    publish("events", {"text": "\0 é \U0001f6eb \u2028"}, durable=True)
    relay_all(relay)
    assert logged()[before:] == ['{"text":"\\u0000 é \U0001f6eb \u2028"}'.encode()]


def test_whoever_takes_over_publishes_nothing_twice(relay: Relay, before: int) -> None:
    count = MAX_MESSAGES + 20
    publish_many("events", [{"n": n} for n in range(count)], durable=True)
    assert relay.step()
    # As if it had been killed before it could note that the log has the first batch.
    publish("events", {"n": count}, durable=True)
    heir = Relay()
    heir.begin()
    assert heir.step()
    assert len(logged()) == before + MAX_MESSAGES
    relay_all(heir)
    assert numbers(logged()[before:]) == list(range(count + 1))


def test_one_that_has_lost_its_turn_does_no_harm(relay: Relay, before: int) -> None:
    publish_many("events", [{"n": n} for n in range(3 * MAX_MESSAGES)], durable=True)
    other = Relay()
    other.begin()
    while relay.step() | other.step():
        pass
    assert numbers(logged()[before:]) == list(range(3 * MAX_MESSAGES))


@pytest.mark.parametrize("order", [[False, True], [True, False], [True, True]])
def test_many_under_a_key_are_published_once_on_either_way(
    relay: Relay, before: int, order: list[bool], configure: Configure
) -> None:
    """Through the outbox or not; also more than a relay publishes together."""
    payloads = [{"n": n} for n in range(2 * MAX_MESSAGES + 50)]
    key = f"import {order}"
    for durable in order:
        publish("events", {"n": 0}, durable=True)
        publish_many("events", payloads, durable=durable, idempotency_key=key)
        publish("events", {"n": 0}, durable=True)
        relay_all(relay)
    found = numbers(logged()[before:])
    assert len(found) == len(payloads) + 4
    assert sorted(found) == sorted([*range(len(payloads)), 0, 0, 0, 0])


def test_a_message_with_a_key_of_the_version_before_is_published(relay: Relay, before: int) -> None:
    for key in ("order-1", "two words", "5 words"):
        OutboxMessage.objects.create(type="events", payload='{"n":1}', idempotency_key=key)
    relay.begin()
    relay_all(relay)
    assert numbers(logged()[before:]) == [1, 1, 1]


def test_keys_of_its_own(relay: Relay, before: int) -> None:
    for payload in ({"n": 1}, {"n": 2}):
        publish("events", payload, durable=True, idempotency_key="twice")
    publish("events", {"n": 3}, durable=True)
    publish_many("events", [{"n": 4}, {"n": 5}], durable=True, idempotency_key="many")
    relay_all(relay)
    publish("events", {"n": 6}, idempotency_key="twice")
    assert numbers(logged()[before:]) == [1, 3, 4, 5]


def test_each_type_is_on_its_own(relay: Relay) -> None:
    for kind in ("alerts", "metrics"):
        publish(kind, {"of": kind}, durable=True)
    assert relay.step()
    assert logged("alerts")[-1] == b'{"of":"alerts"}'
    assert logged("metrics")[-1] == b'{"of":"metrics"}'


def test_a_message_that_has_become_too_large_is_set_aside(
    relay: Relay, before: int, configure: Configure, admin_client: Client
) -> None:
    publish("events", {"n": 1}, durable=True)
    publish("events", {"text": "é" * 700}, durable=True)
    publish("events", {"n": 2}, durable=True)
    configure(max_message_size="1024")
    relay_all(relay)
    assert numbers(logged()[before:]) == [1, 2]
    page = admin_client.get(OUTBOX, {"state": "parked"}).content.decode()
    assert "1411 bytes, more than max_message_size (1024)" in page
    configure(max_message_size="4096")
    [parked] = OutboxMessage.objects.all()
    admin_client.post(OUTBOX, {"action": "try_again", "_selected_action": [parked.pk]})
    relay_all(relay)
    assert len(logged()) == before + 3


def test_the_admin_shows_and_does_not_edit(admin_client: Client) -> None:
    publish("events", {"n": 1}, durable=True)
    [row] = OutboxMessage.objects.all()
    page = admin_client.get(OUTBOX).content.decode()
    assert "0\xa0minutes" in page and "/add/" not in page.split("outboxmessage", 1)[1][:20]
    assert admin_client.get(f"{OUTBOX}add/").status_code == 403
    form = admin_client.get(f"{OUTBOX}{row.pk}/change/").content.decode()
    assert "&quot;n&quot;:1" in form and 'name="payload"' not in form
    only_looks = Client()
    only_looks.force_login(User.objects.create_user("looker", is_staff=True))
    assert only_looks.get(OUTBOX).status_code == 403


@pytest.fixture
def on_postgresql() -> Iterator[None]:
    """Skip where there are no transactions side by side; test_postgresql.py runs these there."""
    if connection.vendor != "postgresql":
        pytest.skip("not on PostgreSQL")
    yield


class _Writer(threading.Thread):
    """A transaction that writes one message when it is told and commits when it is told."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self.written = threading.Event()
        self.may_commit = threading.Event()

    def run(self) -> None:
        """Write and commit."""
        try:
            with transaction.atomic():
                publish("events", {"n": self._number}, durable=True)
                self.written.set()
                assert self.may_commit.wait(10)
        finally:
            connection.close()

    def commit(self) -> None:
        """Commit, and return when that is done."""
        self.may_commit.set()
        self.join()


@pytest.mark.usefixtures("on_postgresql")
def test_a_transaction_that_commits_late_keeps_its_place(relay: Relay, before: int) -> None:
    writers = [_Writer(number) for number in (1, 2, 3)]
    for writer in writers:
        writer.start()
        assert writer.written.wait(10)
    writers[1].commit()
    assert not relay.step()
    assert logged()[before:] == []
    writers[0].commit()
    relay_all_there_is = [relay.step() for _ in range(3)]
    assert relay_all_there_is == [True, False, False]
    assert numbers(logged()[before:]) == [1, 2]
    writers[2].commit()
    relay_all(relay)
    assert numbers(logged()[before:]) == [1, 2, 3]


@pytest.mark.parametrize("number", [2**40, 1, None])
def test_a_database_restored_from_another_server(
    relay: Relay, before: int, number: int | None
) -> None:
    publish_many("events", [{"n": 1}, {"n": 2}], durable=True)
    OutboxMessage.objects.update(transaction=number)
    heir = Relay()
    heir.begin()
    publish("events", {"n": 3}, durable=True)
    relay_all(heir)
    assert numbers(logged()[before:]) == [1, 2, 3]


def test_a_log_that_is_away_holds_nothing_up_for_good(
    valkey: EmbeddedServer, relay: Relay, before: int
) -> None:
    publish("events", {"n": 1}, durable=True)
    valkey.stop()
    try:
        assert not relay.step()
        assert relay.has_waiting()
    finally:
        valkey.ensure_running()
    heir = Relay()
    heir.begin()
    relay_all(heir)
    assert numbers(logged()[before:]) == [1]


def test_one_of_many_that_was_set_aside_is_published_when_it_is_tried_again(
    relay: Relay, before: int, configure: Configure, admin_client: Client
) -> None:
    """The key of the others is used by then."""
    payloads = [{"n": 1}, {"n": int("9" * 1500)}, {"n": 2}]
    publish_many("events", payloads, durable=True, idempotency_key="set aside")
    configure(max_message_size="1024")
    relay_all(relay)
    assert numbers(logged()[before:]) == [1, 2]
    configure(max_message_size="4096")
    [parked] = OutboxMessage.objects.all()
    admin_client.post(OUTBOX, {"action": "try_again", "_selected_action": [parked.pk]})
    relay_all(relay)
    assert numbers(logged()[before:]) == [1, 2, int("9" * 1500)]


@pytest.mark.usefixtures("on_postgresql")
def test_the_same_many_of_two_transactions_at_once(relay: Relay, before: int) -> None:
    """Their rows lie between one another."""
    payloads = [{"n": n} for n in range(4)]
    for _ in range(2):
        publish_many("events", payloads, durable=True, idempotency_key="at once")
    rows = list(OutboxMessage.objects.order_by("pk"))
    OutboxMessage.objects.all().delete()
    mixed = [row for pair in zip(rows[:4], rows[4:], strict=True) for row in pair]
    for row in mixed:
        row.pk = None
        row.save(force_insert=True)
    relay_all(relay)
    assert numbers(logged()[before:]) == [0, 1, 2, 3]
