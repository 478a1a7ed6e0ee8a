"""The list of access tokens, and the page of a token."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone

from realtime.auth.policy import current_revision
from realtime.auth.tokens import create_token, revoke
from realtime.models import AccessToken
from tests.admin.pages import (
    TOKENS,
    browser_of,
    change_url,
    log,
    text_of,
    token_form,
)

pytestmark = pytest.mark.django_db


class TestTokenList:
    """The list of tokens."""

    @pytest.fixture(autouse=True)
    def tokens(self, administrator: User) -> None:
        """One token of each state."""
        now = timezone.now()
        create_token("active one", types=["events", "alerts"], owner=administrator)
        create_token(
            "expired one", expires_at=now + timedelta(days=1), can_publish=True, filters={"a": 1}
        )
        AccessToken.objects.filter(name="expired one").update(expires_at=now)
        revoke([create_token("revoked one", types=["metrics"])[0]])

    def names(self, browser: Client, **query: str) -> set[str]:
        page = browser.get(TOKENS, query)
        assert page.status_code == 200
        return {token.name for token in page.context["cl"].result_list}

    def test_the_columns(self, browser: Client) -> None:
        token = AccessToken.objects.get(name="active one")
        text = text_of(browser.get(TOKENS))
        assert f"active one {token.prefix} active events, alerts admin never never" in text
        assert re.search(
            r"expired one rt_\w+ expired all; publish; filtered - \w+\.? \d+, \d+,? ", text
        )

    def test_the_digest_is_on_no_page(self, browser: Client) -> None:
        for token in AccessToken.objects.all():
            for path in (TOKENS, change_url(token)):
                page = browser.get(path).content.decode()
                assert "digest" not in page
                assert bytes(token.digest).hex() not in page

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ({"state": "active"}, {"active one"}),
            ({"state": "expired"}, {"expired one"}),
            ({"state": "revoked"}, {"revoked one"}),
            ({"state": "nonsense"}, {"active one", "expired one", "revoked one"}),
            ({"type": "events"}, {"active one", "expired one"}),
            ({"type": "metrics"}, {"expired one", "revoked one"}),
            ({"type": "nonsense"}, {"active one", "expired one", "revoked one"}),
            ({"can_publish__exact": "1"}, {"expired one"}),
            ({"q": "active"}, {"active one"}),
            ({"q": "admin"}, {"active one"}),
            ({"q": "nobody"}, set()),
        ],
    )
    def test_filters_and_search(
        self, browser: Client, query: dict[str, str], names: set[str]
    ) -> None:
        assert self.names(browser, **query) == names

    def test_a_prefix_finds_its_token(self, browser: Client) -> None:
        token = AccessToken.objects.get(name="revoked one")
        assert self.names(browser, q=token.prefix) == {"revoked one"}

    def test_the_list_does_not_ask_for_each_owner(
        self, browser: Client, django_assert_max_num_queries: Any
    ) -> None:
        for number in range(20):
            owner = User.objects.create(username=f"user {number}")
            create_token(f"token {number}", owner=owner)
        with django_assert_max_num_queries(12):
            browser.get(TOKENS)


class TestChangeToken:
    """The page of one token."""

    @pytest.fixture
    def token(self) -> AccessToken:
        """A token."""
        return create_token("reader", filters={"tenant_id": "acme"})[0]

    def test_the_record_is_shown_and_cannot_be_changed(
        self, browser: Client, token: AccessToken
    ) -> None:
        page = browser.get(change_url(token))
        text = text_of(page)
        assert f"Prefix: {token.prefix}" in text
        assert "State: active" in text
        assert "Last used at: -" in text
        fields = page.context["adminform"].form.fields
        assert not {"prefix", "digest", "created_at", "last_used_at", "revoked_at"} & set(fields)

    def test_a_change_is_saved_logged_and_raises_the_revision(
        self, browser: Client, token: AccessToken
    ) -> None:
        digest, revision = bytes(token.digest), current_revision()
        page = browser.post(
            change_url(token), token_form(name="renamed", filters='{"tenant_id": "acme"}')
        )
        assert page.status_code == 302
        token.refresh_from_db()
        assert token.name == "renamed"
        assert token.types == ["events", "alerts"]
        assert bytes(token.digest) == digest
        assert log() == [f"Changed “{token}” — Changed Name and Types."]
        assert current_revision() > revision

    def test_a_forged_field_changes_nothing(self, browser: Client, token: AccessToken) -> None:
        forged = {"prefix": "rt_00000000", "digest": "x", "reserved_prefix": "rt_00000000"}
        browser.post(change_url(token), token_form(**forged))
        changed = AccessToken.objects.get(pk=token.pk)
        assert (changed.prefix, bytes(changed.digest)) == (token.prefix, bytes(token.digest))

    def test_a_token_can_be_made_to_expire_now(self, browser: Client, token: AccessToken) -> None:
        expiry = {"expires_at_0": "2001-01-01", "expires_at_1": "00:00"}
        assert browser.post(change_url(token), token_form(**expiry)).status_code == 302
        assert AccessToken.objects.get().state == "expired"

    def test_saving_an_older_reading_does_not_undo_a_revocation(
        self, administrator: User, token: AccessToken
    ) -> None:
        page = admin.site.get_model_admin(AccessToken)
        request = HttpRequest()
        request.user = administrator
        form = page.get_form(request, token, change=True)(token_form(), instance=token)
        assert form.is_valid()
        revoke([token])
        page.save_model(request, form.save(commit=False), form, change=True)
        saved = AccessToken.objects.get()
        assert saved.name == "wallboard"
        assert saved.state == "revoked"

    def test_who_may_only_view_sees_no_form(self, token: AccessToken) -> None:
        browser = browser_of("view_accesstoken")
        page = browser.get(change_url(token))
        assert page.status_code == 200
        assert token.prefix in text_of(page)
        assert 'name="_save"' not in page.content.decode()
        assert "revoke_tokens" not in page.content.decode()
        assert browser.post(change_url(token), token_form()).status_code == 403

    def test_deleting_tells_what_it_does_to_clients(
        self, browser: Client, token: AccessToken
    ) -> None:
        page = browser.get(f"{TOKENS}{token.pk}/delete/")
        assert "Clients that use a deleted token are disconnected" in text_of(page)
        several = {"action": "delete_selected", "_selected_action": [token.pk]}
        page = browser.post(TOKENS, several)
        assert "Clients that use a deleted token are disconnected" in text_of(page)
        assert AccessToken.objects.exists()
        browser.post(TOKENS, several | {"post": "yes"})
        assert not AccessToken.objects.exists()
