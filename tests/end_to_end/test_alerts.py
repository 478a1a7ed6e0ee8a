"""Alert rules from a publisher to a client, a webhook and a mailbox, through processes that die."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from realtime.analytics.alerting.processor import AlertProcessor
from realtime.analytics.alerting.rule import AlertSpec, ThresholdCondition
from realtime.analytics.processing.contract import Records
from tests.support import ROOT, Server, client, environment, manage, running, wait_until
from tests.support.receivers import Mailbox, Receiver

Start = Callable[..., "subprocess.Popen[str]"]
ADD_RULE = """
from realtime.analytics.alerting.models import AlertRule
row = AlertRule.objects.create(**fields)
result = row.webhook_secret
"""
HAS_BEGUN = """
from realtime.cluster.layer import key
from realtime.cluster.clients import sync_client
from realtime.cluster.layer import group_address
server = group_address("alerts")[0]
result = bool(sync_client(server).hget(key("{alerts}:processor:" + name), "offset"))
"""
NOTIFICATIONS = """
from realtime.analytics.alerting.models import Notification
result = [[one.channel, one.state, one.status, one.attempts] for one in Notification.objects.all()]
"""
FIRING = """
from realtime.analytics.alerting.models import Alert
result = list(Alert.objects.filter(resolved_at="").values_list("rule", flat=True))
"""
ALL = """
from realtime.analytics.alerting.models import Alert
result = sorted(Alert.objects.values_list("alert_id", flat=True))
"""
FORGET_ALERTS = """
from realtime.analytics.alerting.models import Alert
Alert.objects.all().delete()
"""
FLUSH = """
from realtime.cluster.clients import sync_client
from realtime.cluster.layer import group_address
sync_client(group_address("alerts")[0]).flushall()
"""
END_RULE = """
from realtime.analytics.alerting.models import AlertRule
AlertRule.objects.filter(name="gone").delete()
"""
OPEN = """
from realtime.analytics.alerting.models import Alert
result = Alert.objects.filter(resolved_at="").count()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start ``manage.py run_alerts``; what runs at the end is killed."""
    with contextlib.ExitStack() as stack:

        def start(server: Server, **variables: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "manage.py", "run_alerts"],
                    env=environment(server.data_dir, **variables),
                    cwd=ROOT,
                    text=True,
                    stderr=subprocess.PIPE,
                )
            )
            stack.callback(process.kill)
            assert process.stderr is not None
            assert any(line.startswith("run_alerts: rules: ") for line in process.stderr)
            return process

        yield start


def add_rule(server: Server, name: str, **fields: Any) -> str:
    """Add a rule; return the secret of its webhook."""
    fields = {"name": name, "source": "metrics", "value_path": "v", "threshold": 10.0} | fields
    secret: str = server.administer(ADD_RULE, fields=fields)
    return secret


def wait_for_rule(server: Server, name: str) -> None:
    """Wait until a rule reads what is published."""
    wait_until(lambda: server.administer(HAS_BEGUN, name=f"alert:{name}:metrics"), 30)


def stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    assert process.wait(15) == 0


def some_values(count: int) -> list[dict[str, Any]]:
    """Return values of three groups that go up and down, with times of their own."""
    chance = random.Random(7)
    return [
        {"g": chance.choice("abc"), "v": chance.choice([1, 6, 11, 20]), "t": 1000 + number}
        for number in range(count)
    ]


def expected(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the alerts on values, from the rule alone."""
    rule = AlertSpec(
        *("load", "metrics", "v", ThresholdCondition("above", 10.0, 5.0)),
        group_by=["g"],
        for_seconds=5.0,
        time="t",
    )
    processor = AlertProcessor(rule)
    processor.restore({})
    processor.take(Records(1, values, [2e9] * len(values)))
    return [msgspec.json.decode(output) for output in processor.save().outputs]


def without_id(alert: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in alert.items() if name != "alert_id"}


async def test_each_alert_arrives_once_whoever_is_killed(data_dir: Path, start: Start) -> None:
    values = some_values(300)
    wanted = expected(values)
    assert len(wanted) > 10
    with (
        running(data_dir) as server,
        Receiver(500, 503).running() as receiver,
        Mailbox().running() as mailbox,
    ):
        secret = add_rule(
            server,
            "load",
            clear=5.0,
            group_by="g",
            for_seconds=5.0,
            time_path="t",
            webhook_url=receiver.url,
            emails="a@example.com",
        )
        mail = {"DJANGO_EMAIL_HOST": "127.0.0.1", "DJANGO_EMAIL_PORT": str(mailbox.port)}
        first, second = start(server, **mail), start(server, **mail)
        async with client(server, server.token()) as page:
            await page.subscribe("alerts")
            await asyncio.to_thread(wait_for_rule, server, "load")
            received: list[dict[str, Any]] = []
            for number, begin in enumerate(range(0, 300, 100)):
                part = values[begin : begin + 100]
                await asyncio.to_thread(server.publish, "metrics", *part)
                count = len(expected(values[: begin + 100]))
                while len(received) < count:
                    received.append((await page.receive(30))["data"]["alert"])
                    if len(received) == count // 2:
                        (first, second)[number % 2].kill()
                if number == 1:
                    first = start(server, **mail)
            await page.assert_silent()
        assert [without_id(alert) for alert in received] == [without_id(alert) for alert in wanted]
        ids = [alert["alert_id"] for alert in received if alert["state"] == "firing"]
        assert len(set(ids)) == len(ids)

        def all_delivered() -> bool:
            found = server.administer(NOTIFICATIONS)
            return len(found) == 2 * len(wanted) and {one[2] for one in found} == {"delivered"}

        await asyncio.to_thread(wait_until, all_delivered, 60)
        second = start(server, **mail)
        await asyncio.to_thread(stop, second)
        await asyncio.to_thread(stop, first) if first.poll() is None else None
        taken = {request.headers["webhook-id"]: request for request in receiver.requests}
        posted = [Webhook(secret).verify(one.body, one.headers) for one in taken.values()]
        assert sorted(posted, key=repr) == sorted(received, key=repr)
        assert len({mail["message-id"] for mail in mailbox.mails}) == len(wanted)


async def test_alerts_of_a_rule_that_is_changed_or_removed_are_resolved(
    data_dir: Path, start: Start
) -> None:
    with running(data_dir) as server:
        await asyncio.to_thread(add_rule, server, "load")
        process = start(server)
        async with client(server, server.token()) as page:
            await page.subscribe("alerts")
            await asyncio.to_thread(wait_for_rule, server, "load")
            await asyncio.to_thread(server.publish, "metrics", {"v": 20})
            fired = await page.assert_data("alerts")
            change = "row = AlertRule.objects.get(); row.{}; row.{}()"
            imports = "from realtime.analytics.alerting.models import AlertRule; "
            server.administer(imports + change.format("threshold = 15", "save"))
            resolved = await page.assert_data("alerts")
            assert (resolved["alert_id"], resolved["reason"]) == (fired["alert_id"], "rule_changed")
            await asyncio.to_thread(server.publish, "metrics", {"v": 14}, {"v": 16})
            fired = await page.assert_data("alerts")
            assert fired["value"] == 16
            await asyncio.to_thread(wait_until, lambda: server.administer(OPEN) == 1)
            server.administer(imports + change.format("pk", "delete"))
            resolved = await page.assert_data("alerts")
            assert (resolved["alert_id"], resolved["reason"]) == (fired["alert_id"], "rule_ended")
            await asyncio.to_thread(wait_until, lambda: server.administer(OPEN) == 0)
        await asyncio.to_thread(stop, process)


async def test_an_alert_without_values_is_resolved_by_the_clock(
    data_dir: Path, start: Start
) -> None:
    with running(data_dir) as server:
        await asyncio.to_thread(add_rule, server, "load", resolve_after=0.5)
        start(server)
        async with client(server, server.token()) as page:
            await page.subscribe("alerts")
            await asyncio.to_thread(wait_for_rule, server, "load")
            began = time.time()
            await asyncio.to_thread(server.publish, "metrics", {"v": 20})
            assert (await page.assert_data("alerts"))["state"] == "firing"
            assert (await page.assert_data("alerts"))["reason"] == "no_data"
            assert time.time() - began >= 0.5


async def test_alerts_end_although_the_store_forgot_them(data_dir: Path, start: Start) -> None:
    """What is still bad fires under no other id, what is well again or has no rule is resolved."""
    with running(data_dir) as server, Receiver().running() as receiver:
        for name in ("load", "gone"):
            await asyncio.to_thread(add_rule, server, name, webhook_url=receiver.url)
        process = start(server)
        for name in ("load", "gone"):
            await asyncio.to_thread(wait_for_rule, server, name)

        async def after(change: str, *values: int, firing: list[str]) -> None:
            server.administer(change)
            for name in ("load", "gone") if "flushall" in change else ():
                await asyncio.to_thread(wait_for_rule, server, name)
            await asyncio.to_thread(server.publish, "metrics", *({"v": value} for value in values))
            fires = lambda: sorted(server.administer(FIRING)) == firing  # noqa: E731
            await asyncio.to_thread(wait_until, fires, 30)

        await after("", 20, firing=["gone", "load"])
        ids = server.administer(ALL)
        # The ledger's own copy of a database that was restored: told again.
        await after(FORGET_ALERTS, firing=["gone", "load"])
        await after(FLUSH, 21, firing=["gone", "load"])
        await after(FLUSH + END_RULE, firing=["load"])
        await after("", 22, 1, firing=[])
        assert server.administer(ALL) == ids
        await asyncio.to_thread(stop, process)
    sent = sorted(request.headers["webhook-id"] for request in receiver.requests)
    assert [name.rpartition("-")[2] for name in sent].count("firing") == 2


async def test_rules_in_code_alert_too(data_dir: Path, start: Start) -> None:
    with running(data_dir) as server:
        process = start(server, DJANGO_SETTINGS_MODULE="tests.support.declared.settings")
        async with client(server, server.token()) as page:
            await page.subscribe("alerts", {"rule": "in_code"})
            await asyncio.to_thread(wait_for_rule, server, "in_code")
            await asyncio.to_thread(server.publish, "metrics", {"v": 20}, {"v": 6}, {"v": 5})
            states = [(await page.assert_data("alerts"))["state"] for _ in range(2)]
            assert states == ["firing", "resolved"]
        await asyncio.to_thread(stop, process)


def test_it_ends_whenever_it_is_told_to(data_dir: Path, start: Start) -> None:
    with running(data_dir) as server:
        for pause in (0.0, 0.02, 0.1, 0.5):
            process = start(server)
            time.sleep(pause)  # into its work: no event says that it is there
            stop(process)
        assert process.stderr is not None
        assert process.stderr.read().endswith("run_alerts: stopped\n")


def test_without_a_database_it_says_so_in_one_line(data_dir: Path) -> None:
    done = manage("run_alerts", data_dir=data_dir, DATABASE_URL="postgres://127.0.0.1:9/none")
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: the database does not answer")
    assert len(done.stderr.splitlines()) == 1
