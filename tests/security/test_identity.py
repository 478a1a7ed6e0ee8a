"""Credentials that are no access tokens: of a logged-in user, and of another identity provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.security.audit import audit
from tests.support import Client, Server, client, manage, running

SECRET = "a secret of another identity provider, long enough"
VARIABLES = {
    "STREAMING_JWT__ISSUER": "https://login.example.com",
    "STREAMING_JWT__AUDIENCE": "streaming",
    "STREAMING_JWT__KEY": SECRET,
    "STREAMING_JWT__ALGORITHMS": "HS256",
}
INVALID = {"error": "Invalid credentials", "code": "invalid_credentials"}


def signed(secret: str = SECRET, **claims: Any) -> str:
    """Return a token of that provider."""
    known = {
        "iss": "https://login.example.com",
        "aud": "streaming",
        "sub": "maria",
        "exp": time.time() + 60,
        "types": ["events"],
        "filters": {"tenant_id": "acme"},
    }
    return jwt.encode(known | claims, secret, algorithm="HS256")


async def check_rights(server: Server, page: Client) -> None:
    """Check that a client receives the events of its tenant, and nothing else."""
    await page.subscribe("events")
    await page.send({"type": "subscribe", "data": {"type": "alerts"}})
    await page.assert_error("forbidden")
    server.publish("events", {"tenant_id": "other"}, {"tenant_id": "acme"})
    assert await page.assert_data("events") == {"tenant_id": "acme"}
    await page.assert_silent()


@pytest.fixture(scope="module")
def jwt_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that accepts that provider's tokens."""
    with running(tmp_path_factory.mktemp("jwt"), **VARIABLES) as server:
        yield server


class TestJsonWebTokens:
    """Of another identity provider."""

    async def test_rights_and_their_end(self, data_dir: Path) -> None:
        with running(data_dir, **VARIABLES) as server:
            async with client(server) as page:
                ends = time.time() + 3
                reply = await page.authenticate(signed(exp=ends))
                assert reply["data"]["types"] == ["events"] and reply["data"]["token"] is None
                await check_rights(server, page)
                await page.assert_closed(1008, "token expired")
                assert ends <= time.time() < ends + 2
            async with client(server) as page:  # access tokens go on to work
                await page.authenticate(server.new_token())
            (line,) = [line for line in audit(server) if line.get("holder") == "jwt:maria"][:1]
            assert line["event"] == "authenticated"
            assert SECRET not in server.log()

    @pytest.mark.parametrize(
        "claims",
        [
            {"secret": "another secret that is long enough for it"},
            {"exp": time.time() - 60},
            {"iss": "https://evil.example"},
            {"aud": "another"},
            {"types": []},
            {"filters": {"": 1}},
        ],
    )
    async def test_what_is_refused(self, jwt_server: Server, claims: dict[str, Any]) -> None:
        async with client(jwt_server) as page:
            reply = await page.call({"type": "auth", "data": {"token": signed(**claims)}})
            assert (reply["type"], reply["data"]) == ("auth_failed", INVALID)

    async def test_they_are_nothing_to_a_server_that_knows_no_provider(
        self, server: Server
    ) -> None:
        async with client(server) as page:
            reply = await page.call({"type": "auth", "data": {"token": signed()}})
            assert (reply["type"], reply["data"]) == ("auth_failed", INVALID)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"STREAMING_JWT__ISSUER": ""}, "STREAMING_JWT__ISSUER='': "),
            ({"STREAMING_JWT__ALGORITHMS": "none"}, "STREAMING_JWT__ALGORITHMS='none': "),
            ({"STREAMING_JWT__KEY": "short"}, "STREAMING_JWT__*: "),
            ({"STREAMING_JWT__ISSUERS": "x"}, "STREAMING_JWT__ISSUERS: no such setting"),
            (
                {"STREAMING_JWT__KEY": "", "STREAMING_JWT__KEY_FILE": "/nowhere"},
                "STREAMING_JWT__*: ",
            ),
        ],
    )
    def test_a_wrong_configuration_is_told_in_one_line(
        self, data_dir: Path, changed: dict[str, str], message: str
    ) -> None:
        done = manage("serve", "--port", "0", data_dir=data_dir, **(VARIABLES | changed))
        assert done.returncode == 1 and done.stderr.startswith(f"error: {message}"), done.stderr
        assert done.stderr.count("\n") == 1


GRANTED = """
from django.contrib.auth.models import Group, Permission, User
from realtime.auth.connection_tokens import issue
from realtime.models import GroupFilters
user = User.objects.create_user(name)
user.user_permissions.set(Permission.objects.filter(codename__in=["view_events"]))
group = Group.objects.create(name=name)
GroupFilters.objects.create(group=group, filters={"tenant_id": "acme"})
user.groups.add(group)
result = issue(User.objects.get(pk=user.pk))[0]
"""


class TestConnectionTokens:
    """Of a logged-in user."""

    async def test_rights(self, server: Server) -> None:
        token = server.administer(GRANTED, name="rights")
        async with client(server) as page:
            reply = await page.authenticate(token)
            assert reply["data"]["types"] == ["events"] and reply["data"]["expires_at"] is None
            await check_rights(server, page)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ("user.is_active = False; user.save()", "token revoked"),
            ("user.user_permissions.clear()", "token revoked"),
            ("user.delete()", "token revoked"),
        ],
    )
    async def test_rights_that_end_close_the_connection(
        self, server: Server, change: str, reason: str
    ) -> None:
        token = server.administer(GRANTED, name=change)
        async with client(server, token) as page:
            await page.subscribe("events")
            server.administer(f"user = User.objects.get(username=name); {change}", name=change)
            await asyncio.wait_for(page.assert_nothing_but_closed(1008, reason), 2.5)

    async def test_narrower_filters_apply_to_what_is_subscribed(self, server: Server) -> None:
        token = server.administer(GRANTED, name="narrower")
        async with client(server, token) as page:
            await page.subscribe("events")
            server.administer(
                "from realtime.models import GroupFilters\n"
                "row = GroupFilters.objects.get(group__name=name)\n"
                "row.filters = {'tenant_id': 'acme', 'region': 'eu'}; row.save()",
                name="narrower",
            )
            async with asyncio.timeout(5):
                while True:  # until the change has come
                    probe = {"tenant_id": "acme", "region": "eu"}
                    server.publish("events", {"tenant_id": "acme", "region": "us"}, probe)
                    if await page.assert_data("events") == probe:
                        break
                    assert await page.assert_data("events") == probe
