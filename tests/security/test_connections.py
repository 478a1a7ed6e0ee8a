"""Connections over all processes: how many a token may have, who they are, and an end to them."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client as Browser

from realtime.auth.tokens import create_token
from tests.security.audit import audit
from tests.support import Server, client, running, wait_until
from tests.support.layers import layer_of

TOKEN_LIMIT = (1013, "token connection limit")
PAGE = "/admin/realtime/connection/"


@pytest.fixture(scope="module")
def other(server: Server) -> Iterator[Server]:
    """A second process with the first one's database and channel layer."""
    with running(server.data_dir, rate_limit_per_minute="100000") as other:
        yield other


async def try_to_enter(server: Server, token: str) -> tuple[str, Any]:
    """Authenticate and leave; return how that went."""
    async with client(server) as page:
        await page.send({"type": "auth", "data": {"token": token}})
        try:
            reply = await page.receive()
        except Exception:
            closed = page.socket.protocol.close_rcvd
            assert closed is not None
            return "closed", (closed.code, closed.reason)
        return reply["type"], None


async def until_let_in(server: Server, token: str) -> float:
    """Try to authenticate until it works; return how long it took."""
    started = time.monotonic()
    async with asyncio.timeout(20):
        while (answer := await try_to_enter(server, token))[0] != "auth_success":
            assert answer == ("closed", TOKEN_LIMIT)
            await asyncio.sleep(0.1)
    return time.monotonic() - started


async def until_refused(server: Server, token: str) -> None:
    """Authenticate until there is no room."""
    async with asyncio.timeout(10):
        while (await try_to_enter(server, token))[0] == "auth_success":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert await try_to_enter(server, token) == ("closed", TOKEN_LIMIT)


def overview(server: Server, **asked: str) -> dict[str, Any]:
    """Return what a third process sees."""
    found: dict[str, Any] = server.administer(
        "import msgspec\nfrom realtime.cluster import connections as live\n"
        "result = msgspec.to_builtins(live.connections(**asked))",
        asked=asked,
    )
    return found


class TestLimitOfAToken:
    """``max_connections`` of a token holds over all processes."""

    async def test_it_counts_the_connections_of_every_process(
        self, server: Server, other: Server
    ) -> None:
        token = server.new_token(max_connections=2)
        async with client(server, token), client(other, token) as second:
            assert await try_to_enter(server, token) == ("closed", TOKEN_LIMIT)
            assert await try_to_enter(other, token) == ("closed", TOKEN_LIMIT)
            await second.authenticate(token)  # again, on a connection that has its place
            assert await try_to_enter(server, token) == ("closed", TOKEN_LIMIT)
            await second.socket.close()
            assert await until_let_in(server, token) < 5

    async def test_of_many_at_once_no_more_get_in(self, server: Server, other: Server) -> None:
        token = server.new_token(max_connections=3)
        entered = asyncio.Event()
        answers: list[str] = []

        async def enter(where: Server) -> None:
            async with client(where) as page:
                await page.send({"type": "auth", "data": {"token": token}})
                try:
                    answers.append((await page.receive())["type"])
                except Exception:
                    answers.append("closed")
                if len(answers) == 12:
                    entered.set()
                await entered.wait()

        await asyncio.gather(*(enter(where) for where in (server, other) * 6))
        assert sorted(answers) == ["auth_success"] * 3 + ["closed"] * 9

    async def test_what_a_killed_process_held_is_free_again(
        self, server: Server, token: str
    ) -> None:
        token = server.new_token(max_connections=1)
        with running(server.data_dir) as doomed:
            async with client(doomed, token):
                assert await try_to_enter(server, token) == ("closed", TOKEN_LIMIT)
                doomed.process.kill()
                await until_let_in(server, token)

    async def test_a_limit_that_comes_later_counts_those_who_are_there(
        self, server: Server, other: Server
    ) -> None:
        token = server.new_token(name="unbounded")
        async with client(server, token), client(other, token):
            server.administer(
                "t = AccessToken.objects.get(name='unbounded'); t.max_connections = 2; t.save()"
            )
            await until_refused(server, token)
            assert await try_to_enter(other, token) == ("closed", TOKEN_LIMIT)

    async def test_it_survives_a_channel_layer_that_forgets(
        self, server: Server, other: Server
    ) -> None:
        token = server.new_token(max_connections=2)
        async with client(server, token), client(other, token):
            server.administer(
                "from realtime.cluster.clients import sync_client\n"
                "from realtime.cluster.layer import layer_servers\n"
                "r = sync_client(layer_servers()[0])\n"
                "r.delete(*r.scan_iter('*:connections:*'), *r.scan_iter('*:processes'))"
            )
            await until_refused(server, token)


class TestLiveConnections:
    """What the admin shows of all processes."""

    async def test_who_is_connected(self, server: Server, other: Server) -> None:
        token = server.new_token()
        async with client(server, token) as one, client(other, token) as two:
            await one.subscribe("events")
            await one.subscribe("events", {"n": 1})
            await two.subscribe("alerts", subscription_id="mine")
            prefix = token[:11]
            found = overview(server, search=prefix)
            assert (found["total"], found["missing"]) == (2, [])
            newest, oldest = found["connections"]
            assert newest["process"].startswith(f"{socket.gethostname()}-{other.process.pid}-")
            assert oldest["process"].startswith(f"{socket.gethostname()}-{server.process.pid}-")
            assert newest["token"] == oldest["token"] == prefix
            assert newest["address"] == "127.0.0.1"
            assert newest["subscriptions"] == [{"id": "mine", "type": "alerts"}]
            assert [each["type"] for each in oldest["subscriptions"]] == ["events", "events"]
            assert newest["buffered"] == 0
            assert 0 <= time.time() - newest["since"] < 60
            before = newest["sent"]
            reply = await two.call({"type": "ping", "metadata": {"x": "x" * 1000}})
            assert reply["type"] == "pong"
            [newest] = overview(server, search=newest["client_id"])["connections"]
            assert 1000 < newest["sent"] - before < 1500
            assert overview(server, holder=newest["holder"])["total"] == 2
            assert overview(server, search=prefix, holder="token:0")["total"] == 0
            assert overview(server, search=f"{prefix}x")["total"] == 0

    async def test_a_process_that_does_not_answer_is_named(
        self, server: Server, other: Server
    ) -> None:
        async with client(server, server.new_token()):
            name = f"{socket.gethostname()}-{other.process.pid}-"
            # It has given a sign of life a moment ago, so for some seconds it is asked.
            wait_until(lambda: any(process.startswith(name) for process in processes_of(server)))
            stopped = psutil.Process(other.process.pid)
            stopped.suspend()
            try:
                found = overview(server)
                assert found["total"] >= 1
                [missing] = found["missing"]
                assert missing.startswith(name)
            finally:
                stopped.resume()
            wait_until(lambda: not overview(server)["missing"])

    async def test_a_process_that_ends_is_not_missed(self, server: Server) -> None:
        with running(server.data_dir) as ending:
            ending.process.send_signal(signal.SIGTERM)
            ending.process.wait(20)
        assert overview(server)["missing"] == []


def processes_of(server: Server) -> list[str]:
    """Return the names of the processes that count as running."""
    names: list[str] = server.administer(
        "from realtime.monitoring.snapshot import read_all\n"
        "result = [snapshot.process for snapshot in read_all()]"
    )
    return names


class TestPage:
    """The page and the column of the token list, in a browser of an administrator."""

    @pytest.fixture
    def layer(self, server: Server) -> Iterator[None]:
        with layer_of(server.data_dir):
            yield

    @staticmethod
    def _browser(*permissions: str, everything: bool = False) -> Browser:
        user = User.objects.create(username="maria", is_staff=True, is_superuser=everything)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        browser = Browser()
        browser.force_login(user)
        return browser

    @pytest.mark.django_db(transaction=True)
    async def test_disconnect(self, server: Server, layer: None, other: Server) -> None:
        async with client(other, other.new_token()) as page:
            await page.subscribe("metrics")
            client_id, text = await asyncio.to_thread(self._disconnect_newest)
            await page.assert_closed(1008, "disconnected by an administrator")
            assert "metrics" in text
        [line] = [
            line
            for line in audit(server)
            if line["event"] == "ended" and line["client_id"] == client_id
        ]
        assert line["reason"] == "disconnected by an administrator"

    def _disconnect_newest(self) -> tuple[str, str]:
        browser = self._browser(everything=True)
        text = browser.get(PAGE).content.decode()
        found = re.search(r'name="client_id" value="([^"]+)"', text)
        assert found, text
        answer: Any = browser.post(f"{PAGE}?q=x", {"client_id": found[1]}, follow=True)
        assert answer.redirect_chain == [(f"{PAGE}?q=x", 302)]
        assert f"Disconnected {found[1]}." in answer.content.decode()
        entry = LogEntry.objects.get()
        assert (entry.object_id, entry.get_change_message()) == (found[1], "Disconnected.")
        again: Any = browser.post(PAGE, {"client_id": found[1]}, follow=True)
        assert "has ended already" in again.content.decode()
        assert LogEntry.objects.count() == 1
        return found[1], text

    @pytest.mark.django_db
    def test_it_takes_permissions(self, server: Server, layer: None) -> None:
        browser = self._browser()
        assert browser.get(PAGE).status_code == 403
        assert browser.post(PAGE, {"client_id": "x"}).status_code == 403
        User.objects.all().delete()
        viewer = self._browser("view_connection")
        assert viewer.get(PAGE).status_code == 200
        assert "Disconnect" not in viewer.get(PAGE).content.decode()
        assert viewer.post(PAGE, {"client_id": "x"}).status_code == 403

    @pytest.mark.django_db(transaction=True)
    async def test_the_token_list_counts(self, server: Server, layer: None, other: Server) -> None:
        token = server.new_token(name="counted")
        key = server.administer("result = AccessToken.objects.get(name='counted').pk")
        async with client(server, token), client(other, token), client(other, token):
            text = await asyncio.to_thread(self._token_list, key)
            assert f'<a href="{PAGE}?holder=token:{key}">3</a>' in text

    def _token_list(self, key: int) -> str:
        create_token("counted", pk=key)
        return self._browser(everything=True).get("/admin/realtime/accesstoken/").content.decode()

    @pytest.mark.django_db
    def test_without_a_layer_it_says_so(self, data_dir: Any) -> None:
        browser = self._browser(everything=True)
        create_token("alone")
        with layer_of(data_dir):
            assert "channel layer does not answer" in browser.get(PAGE).content.decode()
            assert "unknown" in browser.get("/admin/realtime/accesstoken/").content.decode()
