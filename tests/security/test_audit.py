"""The audit log: it has what happened, and no secret."""

from __future__ import annotations

import os
from pathlib import Path

from tests.security.audit import audit
from tests.support import Server, client, running, wait_until


def events(server: Server) -> list[str]:
    """Return what was recorded, in order."""
    return [line["event"] for line in audit(server)]


async def test_a_connections_life(data_dir: Path) -> None:
    with running(data_dir, rate_limit_per_minute="6") as server:
        secret = server.new_token(name="reader", types=["events"])
        prefix = secret[:11]
        async with client(server) as page:
            await page.call({"type": "auth", "data": {"token": f"{prefix}_wrong"}})
            await page.call({"type": "auth", "data": {"token": "anything"}})
            reply = await page.authenticate(secret)
            client_id = reply["data"]["client_id"]
            await page.send({"type": "subscribe", "data": {"type": "alerts"}})
            await page.assert_error("forbidden")
            for _ in range(2):
                await page.assert_silent()
            for _ in range(3):
                await page.send({"type": "ping"})
                await page.assert_error("rate_limited")
            done = server.manage("revoke_token", prefix)
            assert done.returncode == 0, done
            await page.assert_closed(1008, "token revoked")
        lines = audit(server)
        known = {"client_id": client_id, "address": "127.0.0.1"}
        token = {"holder": lines[2]["holder"], "token": prefix}
        assert token["holder"].startswith("token:")
        assert [{k: v for k, v in line.items() if k != "time"} for line in lines] == [
            {"event": "auth_failed", **known, "token": prefix},
            {"event": "auth_failed", **known},
            {"event": "authenticated", **known, **token},
            {"event": "denied", **known, **token, "type": "alerts"},
            {"event": "limit_reached", **known, **token, "limit": "rate limit"},
            {"event": "ended", **known, **token, "reason": "token revoked"},
        ]
        assert all(line["time"].endswith("Z") for line in lines)
        assert secret not in (server.data_dir / "audit.log").read_text()


async def test_a_limit_is_recorded_once_for_each_client(data_dir: Path) -> None:
    with running(data_dir, max_subscriptions_per_client="1") as server:
        async with client(server, server.new_token()) as page:
            await page.subscribe("events")
            for _ in range(3):
                await page.send({"type": "subscribe", "data": {"type": "alerts"}})
                await page.assert_error("too_many_subscriptions")
        limits = [line["limit"] for line in audit(server) if line["event"] == "limit_reached"]
        assert limits == ["subscriptions"]


async def test_an_origin_that_may_not_connect(data_dir: Path) -> None:
    with running(data_dir, allowed_origins="https://app.example.com") as server:
        async with client(server, origin="https://evil.example") as page:
            await page.assert_nothing_but_closed(1008, "origin not allowed")
        denied, ended = audit(server)
        assert denied["event"] == "denied" and denied["origin"] == "https://evil.example"
        assert ended["event"] == "ended" and ended["reason"] == "origin not allowed"


async def test_what_an_administrator_changes(server: Server) -> None:
    before = len(audit(server))
    server.administer(
        "from django.contrib.admin.models import CHANGE, LogEntry\n"
        "from django.contrib.auth.models import User\n"
        "user = User.objects.create_user('ann')\n"
        "token = create_token(name)[0]\n"
        "LogEntry.objects.log_actions(user.pk, [token], CHANGE, 'Revoked.', single_object=True)\n",
        name="changed",
    )
    wait_until(lambda: len(audit(server)) > before)
    (line,) = [line for line in audit(server)[before:] if line["event"] == "admin_change"]
    assert (line["user"], line["action"], line["changes"]) == ("ann", "changed", "Revoked.")
    assert line["object"].startswith("changed (rt_")


async def test_the_file_may_be_moved_away(server: Server) -> None:
    path = server.data_dir / "audit.log"
    async with client(server, server.new_token()):
        moved = path.with_suffix(".1")
        os.rename(path, moved)
    async with client(server, server.new_token()):
        wait_until(path.exists)
    assert events(server) == ["authenticated"]


async def test_it_can_go_to_standard_error(data_dir: Path) -> None:
    with running(data_dir, STREAMING_AUDIT_LOG="-") as server:
        async with client(server, server.new_token()):
            wait_until(lambda: '"event":"authenticated"' in server.log())
        assert not (data_dir / "audit.log").exists()
