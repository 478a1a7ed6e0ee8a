"""The commands for tokens: what they make and end, and what they print where."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from realtime.auth.policy import current_revision
from realtime.auth.tokens import create_token, digest, find_grant, revoke
from realtime.management.tokens import parse_duration
from realtime.models import AccessToken, all_types
from tests.support import manage


@pytest.fixture(autouse=True)
def a_database_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test database is migrated already; the commands leave a named database alone."""
    monkeypatch.setenv("DATABASE_URL", "the test database")


def run(*arguments: str) -> tuple[str, str]:
    """Run a command in this process; return its standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    call_command(*arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def create(*arguments: str) -> AccessToken:
    run("create_token", *arguments)
    newest: AccessToken = AccessToken.objects.all()[0]
    return newest


def refusal(*arguments: str) -> str:
    with pytest.raises(CommandError) as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.django_db
class TestCreate:
    """``create_token``."""

    def test_the_secret_is_alone_on_standard_output(self) -> None:
        out, err = run("create_token", "reader")
        secret = out.removesuffix("\n")
        token = AccessToken.objects.get()
        assert find_grant(digest(secret)) is not None
        assert err == f"created reader ({token.prefix}): {', '.join(all_types())}\n"

    def test_without_options_a_token_has_all_types_and_no_other_right(self) -> None:
        token = create("reader")
        assert token.types == all_types()
        assert token.filters == {}
        assert not token.can_publish
        assert token.expires_at is None
        assert token.max_connections is None
        assert token.rate_limit_per_minute is None

    def test_every_option(self) -> None:
        token = create(
            "reader",
            "--types=events, alerts,events",
            "--filter=tenant_id=acme",
            "--filter=level=1",
            "--filter=level=2",
            "--publish",
            "--max-connections=3",
            "--rate-limit=40",
        )
        assert token.types == ["events", "alerts"]
        assert token.filters == {"tenant_id": "acme", "level": [1, 2]}
        assert token.can_publish
        assert token.max_connections == 3
        assert token.rate_limit_per_minute == 40

    @pytest.mark.parametrize(
        ("text", "lifetime"),
        [
            ("90s", timedelta(seconds=90)),
            ("5m", timedelta(minutes=5)),
            ("1.5h", timedelta(hours=1, minutes=30)),
            ("30d", timedelta(days=30)),
        ],
    )
    def test_a_lifetime(self, text: str, lifetime: timedelta) -> None:
        before = timezone.now()
        expires_at: Any = create("reader", f"--expires={text}").expires_at
        assert before + lifetime <= expires_at <= timezone.now() + lifetime

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("--types=events,nothing", "subscription types are events, metrics"),
            ("--types=", "subscription types are events, metrics"),
            ("--expires=30", "expected a number and s, m, h or d, such as 30d"),
            ("--expires=0d", "expected a number and s, m, h or d, such as 30d"),
            ("--filter=tenant", "filter 'tenant': expected path=value"),
            ("--filter=a..b=1", "filters: the path 'a..b' has an empty step"),
            ('--filter=a={"b": 1}', "filters: 'a': unknown operator 'b'"),
            ("--max-connections=0", "max-connections: Ensure this value is greater than or equal"),
            ("--rate-limit=-1", "rate-limit-per-minute: Ensure this value is greater than or equ"),
        ],
    )
    def test_a_wrong_option_is_told_and_nothing_is_made(self, option: str, message: str) -> None:
        assert message in refusal("create_token", "reader", option)
        assert not AccessToken.objects.exists()

    @pytest.mark.parametrize("name", ["", "x" * 101])
    def test_a_wrong_name(self, name: str) -> None:
        assert refusal("create_token", name).startswith("name: ")

    def test_names_need_not_differ(self) -> None:
        create("reader")
        create("reader")
        assert AccessToken.objects.count() == 2


@given(st.text(max_size=8) | st.from_regex(r"-?[0-9.e]{1,6}[smhd]", fullmatch=True))
def test_a_duration_is_positive_or_refused(text: str) -> None:
    from argparse import ArgumentTypeError

    try:
        assert parse_duration(text) > timedelta()
    except ArgumentTypeError as error:
        assert "such as 30d" in str(error)


@pytest.mark.django_db
class TestRevoke:
    """``revoke_token``."""

    @pytest.mark.parametrize("field", ["name", "prefix"])
    def test_by_name_or_prefix(self, field: str) -> None:
        token, other = create("reader"), create("other")
        revision = current_revision()
        assert run("revoke_token", getattr(token, field)) == ("", f"revoked {token}\n")
        assert AccessToken.objects.get(pk=token.pk).state == "revoked"
        assert AccessToken.objects.get(pk=other.pk).state == "active"
        assert current_revision() > revision

    def test_an_ambiguous_name_lists_the_prefixes_and_revokes_nothing(self) -> None:
        first, second = create("reader"), create("reader")
        message = refusal("revoke_token", "reader")
        assert "ambiguous" in message
        assert first.prefix in message
        assert second.prefix in message
        assert not AccessToken.objects.exclude(revoked_at=None).exists()

    def test_a_name_is_not_ambiguous_for_tokens_revoked_before(self) -> None:
        first, second = create("reader"), create("reader")
        run("revoke_token", first.prefix)
        assert run("revoke_token", "reader") == ("", f"revoked {second}\n")

    def test_a_prefix_names_its_token_whatever_another_is_called(self) -> None:
        token = create("reader")
        other = create(token.prefix)
        run("revoke_token", token.prefix)
        assert AccessToken.objects.get(pk=token.pk).state == "revoked"
        assert AccessToken.objects.get(pk=other.pk).state == "active"

    def test_an_expired_token_can_be_revoked(self) -> None:
        token = create("reader", "--expires=1d")
        AccessToken.objects.update(expires_at=timezone.now())
        run("revoke_token", "reader")
        assert AccessToken.objects.get(pk=token.pk).state == "revoked"

    def test_revoking_again_says_so(self) -> None:
        token = create("reader")
        run("revoke_token", "reader")
        revoked_at = AccessToken.objects.get().revoked_at
        assert run("revoke_token", token.prefix) == ("", f"{token.prefix} is revoked already\n")
        assert AccessToken.objects.get().revoked_at == revoked_at

    @pytest.mark.parametrize("wanted", ["nobody", "read", "", "rt_"])
    def test_an_unknown_token(self, wanted: str) -> None:
        create("reader")
        message = f"no token is named {wanted!r} or has this prefix"
        assert refusal("revoke_token", wanted) == message


@pytest.mark.django_db
class TestRotate:
    """``rotate_token``."""

    def rotate(self, *arguments: str) -> tuple[str, str]:
        """Return the new secret and what was said."""
        out, err = run("rotate_token", *arguments)
        return out.removesuffix("\n"), err

    def test_both_secrets_work_for_a_while(self) -> None:
        token, old = create_token("reader", types=["events"])
        new, err = self.rotate("reader", "--overlap", "2h")
        token.refresh_from_db()
        found = {find_grant(digest(secret)) is not None for secret in (old, new)}
        assert found == {True} and new.startswith(token.prefix) and new != old
        assert token.previous_until is not None
        assert err == (
            f"rotated reader ({token.prefix}); the old secret works until "
            f"{token.previous_until:%Y-%m-%d %H:%M:%S} UTC\n"
        )

    def test_a_day_by_default(self) -> None:
        token, _ = create_token("reader")
        self.rotate(token.prefix)
        token.refresh_from_db()
        left = token.previous_until - timezone.now()  # type: ignore[operator]
        assert timedelta(hours=23) < left <= timedelta(days=1)

    def test_now(self) -> None:
        token, old = create_token("reader")
        new, err = self.rotate("reader", "--now")
        assert find_grant(digest(old)) is None and find_grant(digest(new)) is not None
        assert err == f"rotated reader ({token.prefix}); the old secret has ended\n"

    def test_what_cannot_be_rotated(self) -> None:
        revoke([create_token("revoked")[0]])
        assert refusal("rotate_token", "revoked") == "revoked is revoked"
        assert "no token" in refusal("rotate_token", "unknown")
        assert "expected a number" in refusal("rotate_token", "revoked", "--overlap=0d")


@pytest.mark.processes
def test_from_an_empty_data_directory_without_a_channel_layer(tmp_path: Path) -> None:
    """As a shell uses them: the secret kept from standard output, statuses, no layer there."""
    nowhere = "redis://127.0.0.1:1"
    made = manage("create_token", "reader", data_dir=tmp_path, REDIS_URL=nowhere)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("\n") == 1
    assert made.stdout.startswith("rt_")
    prefix = made.stdout[:11]
    assert made.stderr.startswith(f"created reader ({prefix}): events, ")

    again = manage("create_token", "reader", data_dir=tmp_path, REDIS_URL=nowhere)
    ambiguous = manage("revoke_token", "reader", data_dir=tmp_path, REDIS_URL=nowhere)
    assert ambiguous.returncode == 1
    assert ambiguous.stdout == ""
    assert ambiguous.stderr.count("\n") == 1
    assert prefix in ambiguous.stderr
    assert again.stdout[:11] in ambiguous.stderr

    revoked = manage("revoke_token", prefix, data_dir=tmp_path, REDIS_URL=nowhere)
    assert (revoked.returncode, revoked.stdout) == (0, "")
    assert revoked.stderr == f"revoked reader ({prefix})\n"
