"""The actions on access tokens: revoke, rotate, extend."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from realtime.auth.policy import current_revision
from realtime.auth.tokens import create_token, digest, find_grant, revoke
from realtime.models import AccessToken
from tests.admin.pages import (
    TOKENS,
    Page,
    browser_of,
    change_url,
    log,
    sessions,
    shown_secret,
    text_of,
)

pytestmark = pytest.mark.django_db


class TestRevoke:
    """Revoking from the list and from a token's page."""

    @pytest.fixture
    def tokens(self) -> list[AccessToken]:
        """Three tokens, the last one revoked."""
        tokens = [create_token(f"reader {number}")[0] for number in range(3)]
        revoke(tokens[2:])
        return tokens

    def post(self, browser: Client, tokens: list[AccessToken], **fields: str) -> Page:
        chosen = {"action": "revoke_tokens", "_selected_action": [token.pk for token in tokens]}
        return browser.post(TOKENS, chosen | fields, follow=True)

    def states(self) -> list[str]:
        return [token.state for token in AccessToken.objects.order_by("pk")]

    def test_it_asks_first(self, browser: Client, tokens: list[AccessToken]) -> None:
        page = self.post(browser, tokens)
        text = text_of(page)
        assert "Are you sure you want to revoke the following access tokens?" in text
        assert str(tokens[0]) in text
        assert str(tokens[1]) in text
        assert str(tokens[2]) not in text
        assert "1 of your selection is revoked already." in text
        assert self.states() == ["active", "active", "revoked"]
        assert log() == []

    def test_confirmed_it_revokes_and_logs_each(
        self, browser: Client, tokens: list[AccessToken]
    ) -> None:
        before, revision = AccessToken.objects.get(pk=tokens[2].pk).revoked_at, current_revision()
        page = self.post(browser, tokens, post="yes")
        assert "Revoked 2 access tokens. Live connections are closed" in text_of(page)
        assert self.states() == ["revoked"] * 3
        assert AccessToken.objects.get(pk=tokens[2].pk).revoked_at == before
        assert sorted(log()) == [f"Changed “{token}” — Revoked." for token in tokens[:2]]
        assert current_revision() > revision

    def test_only_the_chosen_ones(self, browser: Client, tokens: list[AccessToken]) -> None:
        page = self.post(browser, tokens[:1], post="yes")
        assert "Revoked 1 access token." in text_of(page)
        assert self.states() == ["revoked", "active", "revoked"]

    def test_nothing_to_revoke(self, browser: Client, tokens: list[AccessToken]) -> None:
        page = self.post(browser, tokens[2:], post="yes")
        assert "Nothing to revoke: revoked already." in text_of(page)
        assert log() == []

    def test_a_tokens_page_offers_it(self, browser: Client, tokens: list[AccessToken]) -> None:
        page = browser.get(change_url(tokens[0])).content.decode()
        assert 'name="action" value="revoke_tokens"' in page
        assert f'name="_selected_action" value="{tokens[0].pk}"' in page
        revoked = browser.get(change_url(tokens[2])).content.decode()
        assert "revoke_tokens" not in revoked

    @pytest.mark.parametrize("permission", ["view_accesstoken", "delete_accesstoken"])
    def test_it_takes_the_permission_to_change(
        self, tokens: list[AccessToken], permission: str
    ) -> None:
        browser = browser_of("view_accesstoken", permission)
        assert "revoke_tokens" not in browser.get(TOKENS).content.decode()
        self.post(browser, tokens, post="yes")
        assert self.states() == ["active", "active", "revoked"]

    def test_it_takes_no_more_than_the_permission_to_change(
        self, tokens: list[AccessToken]
    ) -> None:
        self.post(browser_of("change_accesstoken"), tokens, post="yes")
        assert self.states() == ["revoked"] * 3


class TestRotate:
    """A new secret from the list or from a token's page."""

    @pytest.fixture
    def new_token(self) -> tuple[AccessToken, str]:
        """A token and its secret."""
        return create_token("reader", filters={"tenant_id": "acme"})

    def post(self, browser: Client, *tokens: AccessToken, **fields: str) -> Page:
        chosen = {"action": "rotate_token", "_selected_action": [token.pk for token in tokens]}
        return browser.post(TOKENS, chosen | fields, follow=True)

    def confirm(self, browser: Client, token: AccessToken, overlap: str = "24") -> Page:
        """Ask for a rotation, then send the form of the page that asks first."""
        page = self.post(browser, token)
        state = re.search(r'name="state" value="([0-9a-f]+)"', page.content.decode())
        assert state is not None, text_of(page)
        return self.post(browser, token, post="yes", overlap=overlap, state=state[1])

    def test_it_asks_first(self, browser: Client, new_token: tuple[AccessToken, str]) -> None:
        token, secret = new_token
        text = text_of(self.post(browser, token))
        assert "The token gets a new secret and keeps its rights." in text and str(token) in text
        assert "The old secret works for" in text
        assert find_grant(digest(secret)) is not None and log() == []

    def test_the_new_secret_is_shown_once_and_the_old_one_works_a_while(
        self, browser: Client, new_token: tuple[AccessToken, str]
    ) -> None:
        token, old = new_token
        revision = current_revision()
        page = self.confirm(browser, token)
        new = shown_secret(page)
        by_old, by_new = find_grant(digest(old)), find_grant(digest(new))
        assert by_old is not None and by_new is not None
        assert by_old.filters == by_new.filters and by_old.expires_at is not None
        assert "The old one works until" in text_of(page)
        (entry,) = log()
        assert entry.startswith(f"Changed “{token}” — Rotated; the secret before works until")
        assert current_revision() > revision
        stored = [*LogEntry.objects.values_list("change_message", flat=True), *map(str, sessions())]
        assert not [text for text in stored if new in text or old in text]

    def test_without_overlap(self, browser: Client, new_token: tuple[AccessToken, str]) -> None:
        token, old = new_token
        page = self.confirm(browser, token, overlap="0")
        assert find_grant(digest(old)) is None
        assert find_grant(digest(shown_secret(page))) is not None
        assert "The old one has ended." in text_of(page)

    def test_a_second_click_does_not_end_the_first_secret(
        self, browser: Client, new_token: tuple[AccessToken, str]
    ) -> None:
        token, old = new_token
        form = self.post(browser, token)
        state = re.search(r'name="state" value="([0-9a-f]+)"', form.content.decode())
        assert state is not None
        fields = {"post": "yes", "overlap": "24", "state": state[1]}
        new = shown_secret(self.post(browser, token, **fields))
        again = text_of(self.post(browser, token, **fields))
        assert "has been changed meanwhile" in again
        assert find_grant(digest(old)) is not None and find_grant(digest(new)) is not None

    @pytest.mark.parametrize("overlap", ["", "-1", "2", "x"])
    def test_a_wrong_overlap_is_told(
        self, browser: Client, new_token: tuple[AccessToken, str], overlap: str
    ) -> None:
        token, secret = new_token
        assert "The old secret works for" in text_of(self.confirm(browser, token, overlap))
        token.refresh_from_db()
        assert bytes(token.digest) == digest(secret)

    def test_one_at_a_time(self, browser: Client, new_token: tuple[AccessToken, str]) -> None:
        other, _ = create_token("other")
        assert "Select one token" in text_of(self.post(browser, new_token[0], other))
        revoke([other])
        assert "Select one token" in text_of(self.post(browser, other))
        assert log() == []

    def test_a_tokens_page_offers_it(
        self, browser: Client, new_token: tuple[AccessToken, str]
    ) -> None:
        assert 'value="rotate_token"' in browser.get(change_url(new_token[0])).content.decode()
        revoke([new_token[0]])
        assert "rotate_token" not in browser.get(change_url(new_token[0])).content.decode()

    def test_it_takes_the_permission_to_change(self, new_token: tuple[AccessToken, str]) -> None:
        browser = browser_of("view_accesstoken", "delete_accesstoken")
        assert "rotate_token" not in browser.get(TOKENS).content.decode()
        self.post(browser, new_token[0], post="yes", overlap="0")
        assert find_grant(digest(new_token[1])) is not None


class TestExtend:
    """A later expiry, from the list or from a token's page."""

    def post(self, browser: Client, *tokens: AccessToken, **fields: str) -> Page:
        chosen = {"action": "extend_tokens", "_selected_action": [token.pk for token in tokens]}
        return browser.post(TOKENS, chosen | fields, follow=True)

    def test_from_the_expiry_on_or_from_now(self, browser: Client) -> None:
        now = timezone.now()
        live, _ = create_token("live", expires_at=now + timedelta(days=1))
        ended, secret = create_token("ended", expires_at=now - timedelta(days=5))
        never, _ = create_token("never")
        asked = text_of(self.post(browser, live, ended, never))
        assert "The following access tokens will expire later." in asked
        assert "1 of your selection is revoked, or without expiry." in asked
        assert str(never) not in asked and log() == []
        done = text_of(self.post(browser, live, ended, never, post="yes", days="10"))
        assert "Extended 2 access tokens by 10 days." in done
        for token in (live, ended, never):
            token.refresh_from_db()
        assert live.expires_at == now + timedelta(days=11)
        assert ended.expires_at is not None
        assert timedelta(days=10) <= ended.expires_at - now < timedelta(days=10, minutes=1)
        assert never.expires_at is None
        assert find_grant(digest(secret)) is not None
        assert len(log()) == 2 and all("Extended until" in entry for entry in log())

    @pytest.mark.parametrize("days", ["", "0", "3651", "x"])
    def test_a_wrong_number_is_told(self, browser: Client, days: str) -> None:
        expires_at = timezone.now() + timedelta(days=1)
        token, _ = create_token("live", expires_at=expires_at)
        assert "Days more" in text_of(self.post(browser, token, post="yes", days=days))
        token.refresh_from_db()
        assert token.expires_at == expires_at

    def test_nothing_to_extend(self, browser: Client) -> None:
        page = self.post(browser, create_token("never")[0], post="yes", days="1")
        assert "Nothing to extend" in text_of(page)

    def test_a_page_offers_it_if_its_token_expires(self, browser: Client) -> None:
        live, _ = create_token("live", expires_at=timezone.now() + timedelta(days=1))
        never, _ = create_token("never")
        assert 'value="extend_tokens"' in browser.get(change_url(live)).content.decode()
        assert 'value="extend_tokens"' not in browser.get(change_url(never)).content.decode()
