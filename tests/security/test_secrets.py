"""No secret is written anywhere: not in logs, errors, the admin, representations or tracebacks."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.test import RequestFactory
from django.views.debug import ExceptionReporter
from django.views.decorators.debug import sensitive_variables

from realtime.admin.tokens import AccessTokenAdmin
from realtime.auth.tokens import create_token, find_grant
from realtime.auth.tokens import digest as digest_of
from realtime.cluster.servers import Server as RedisServer
from realtime.config import JwtConfig
from realtime.models import AccessToken
from realtime.protocol.commands import parse
from tests.security.test_identity import SECRET as JWT_SECRET
from tests.security.test_identity import VARIABLES, signed
from tests.support import OtherServer, Server, client, manage, running

PASSWORD = "correct-horse-battery"
DJANGO_SECRET = "a-secret-key-of-django-" + "s" * 40
FAULTY = ("-m", "daphne", "-v", "2", "-p", "{port}", "tests.end_to_end.faulty:application")


def everything_written(server: Server) -> Iterator[tuple[str, bytes]]:
    """Yield what a server has printed and each file in its data directory."""
    yield "standard output", server.output.encode()
    for path in server.data_dir.rglob("*"):
        if path.is_file():
            yield path.name, path.read_bytes()


def check(server: Server, *secrets: str) -> None:
    """Check that no secret, nor the part of it after its prefix, is in what was written."""
    for name, text in everything_written(server):
        for secret in secrets:
            hidden = secret[12:] if secret.startswith("rt_") else secret
            assert hidden.encode() not in text, (name, hidden)


async def misuse(server: Server, secret: str) -> None:
    """Put a secret wherever one could by mistake, and read the answers."""
    messages: list[Any] = [
        {"type": "auth", "data": {"token": f"{secret}x"}},
        {"type": secret},
        {"type": "auth", "data": {"token": secret}, "metadata": secret},
        f'{{"type": "auth", "data": {{"token": "{secret}"',
        {"type": "auth", "data": {"token": secret}},
        {"type": "subscribe", "data": {"type": secret}},
        {"type": "subscribe", "data": {"type": "events", "filters": {secret: {"$no": secret}}}},
        {"type": "subscribe", "data": {"type": "events", "filters": secret}},
        {"type": "subscribe", "data": {"type": "events"}, "subscription_id": secret},
        {"type": "unsubscribe", "data": {"subscription_id": f"{secret}?"}},
    ]
    async with client(server) as page:
        for message in messages:
            await page.call(message)
        await page.socket.close(4000, secret[:100])


async def test_in_what_a_server_writes(data_dir: Path) -> None:
    variables = VARIABLES | {"DJANGO_SECRET_KEY": DJANGO_SECRET}
    with running(data_dir, **variables) as server:
        secret = server.new_token(name="watched")
        token = signed()
        await misuse(server, secret)
        await misuse(server, token)
        rotated = server.manage("rotate_token", "watched").stdout.strip()
        assert rotated.startswith("rt_")
        await misuse(server, rotated)
        server.manage("revoke_token", "watched")
    check(server, secret, rotated, token, JWT_SECRET, DJANGO_SECRET)


async def test_in_an_access_log_and_in_tracebacks(server: Server) -> None:
    secret = server.new_token()
    variables = {
        "REDIS_URL": f"unix://{server.data_dir / 'valkey.sock'}",
        "enable_rate_limiting": "false",
    }
    faulty = OtherServer(server.data_dir, *FAULTY, **variables)
    faulty.may_fail = True
    with faulty:
        await misuse(faulty, secret)
        async with client(faulty, secret) as page:
            await page.send({"type": "ping", "metadata": {"secret": secret}})
            await page.assert_closed(1011, "internal error")
        log = faulty.log()
    assert "Traceback" in log and "a fault made for a test" in log
    assert secret[12:] not in log


def test_of_a_channel_layer_that_is_away(data_dir: Path) -> None:
    url = f"redis://user:{PASSWORD}@127.0.0.1:1/0"
    done = manage("publish", "events", "{}", data_dir=data_dir, REDIS_URL=url)
    assert done.returncode == 1
    assert PASSWORD not in done.stdout + done.stderr
    with running(data_dir, REDIS_URL=url) as server:
        secret = server.new_token()

        async def subscribe() -> None:
            async with client(server, secret) as page:
                await page.send({"type": "subscribe", "data": {"type": "events"}})
                await page.assert_error("unavailable")

        asyncio.run(subscribe())
        subprocess.run(["curl", "-s", f"http://127.0.0.1:{server.port}/readyz"], check=False)
    assert "does not answer" in server.log() or "subscribing to" in server.log()
    check(server, PASSWORD, secret)


def test_in_representations() -> None:
    command = parse(json.dumps({"type": "auth", "data": {"token": PASSWORD}}))
    layer = RedisServer(f"redis://:{PASSWORD}@host:1/0", (("password", PASSWORD),))
    provider = JwtConfig.model_validate(
        {"issuer": "https://a.example", "audience": "b", "key": PASSWORD * 2, "algorithms": "HS256"}
    )
    for thing in (command, layer, provider):
        assert PASSWORD not in repr(thing) + str(thing), type(thing)
    assert repr(layer) == "Server(redis://host:1/0)"


@pytest.mark.django_db
def test_of_a_grant() -> None:
    token, secret = create_token("reader")
    grant = find_grant(digest_of(secret))
    written = f"{grant!r} {token!r} {token} {vars(token)}"
    assert secret not in written and secret[12:] not in written


@pytest.mark.django_db
def test_in_the_admin() -> None:
    """Once shown, a secret is on no page, however one gets there; its digest never is."""
    user = User.objects.create_superuser("root")
    browser = Browser()
    browser.force_login(user)
    page = browser.post(
        "/admin/realtime/accesstoken/add/", {"name": "n", "types": ["events"], "filters": "{}"}
    )
    found = re.search(r'<input id="secret"[^>]* value="(rt_[^"]+)"', page.content.decode())
    assert found
    secret, token = found[1], AccessToken.objects.get()
    seen, waiting = set(), ["/admin/"]
    while waiting:
        url = waiting.pop()
        seen.add(url)
        text = browser.get(url, follow=True).content.decode()
        assert secret[12:] not in text and bytes(token.digest).hex() not in text, url
        links = re.findall(r'href="(/admin/[^"#?]*)', text)
        waiting += [link for link in {*links} - seen if "logout" not in link]
        waiting = sorted({*waiting})
    assert f"/admin/realtime/accesstoken/{token.pk}/history/" in seen
    assert len(seen) > 10


@pytest.mark.django_db
def test_in_an_error_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which Django sends to the site's administrators with the variables of every call."""

    seen: list[str] = []

    @sensitive_variables()
    def remember(found: str) -> bytes:
        seen.append(found)
        raise RuntimeError("a fault made for a test")

    monkeypatch.setattr("realtime.auth.tokens.digest", remember)
    request = RequestFactory().post("/")
    try:
        AccessTokenAdmin.save_model(
            None,  # type: ignore[arg-type]
            request,
            AccessToken(name="n"),
            _Form(),  # type: ignore[arg-type]
            False,
        )
    except RuntimeError as error:
        assert error.__traceback__ is not None
        calls = error.__traceback__.tb_next  # without this test's own variables
        text = ExceptionReporter(request, type(error), error, calls).get_traceback_html()
    assert "a fault made for a test" in text and "assign_secret" in text
    assert seen and seen[0][12:] not in text


class _Form:
    """What the admin's page gives."""

    cleaned_data: ClassVar[dict[str, Any]] = {"reserved_prefix": None}
