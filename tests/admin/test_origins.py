"""The pages of allowed origins."""

from __future__ import annotations

import pytest
from django.test import Client

from realtime.auth.policy import current_revision, load_policy
from realtime.models import AllowedOrigin
from tests.admin.pages import (
    ORIGINS,
    SetVariable,
    browser_of,
    form_errors,
    log,
    text_of,
)

pytestmark = pytest.mark.django_db


class TestOrigins:
    """Allowed origins, and the banner that says which are in force."""

    def test_the_banner_says_the_default(self, browser: Client) -> None:
        for path in (ORIGINS, f"{ORIGINS}add/"):
            text = text_of(browser.get(path))
            assert "In force now, default: * There are no rows." in text

    def test_the_banner_says_the_variable(self, browser: Client, set_variable: SetVariable) -> None:
        set_variable("allowed_origins", "https://a.example.com,null")
        text = text_of(browser.get(ORIGINS))
        variable = "from STREAMING_WEBSOCKET__ALLOWED_ORIGINS"
        assert f"In force now, {variable}: https://a.example.com null There are no rows." in text

    def test_the_banner_says_that_nothing_is_allowed(
        self, browser: Client, set_variable: SetVariable
    ) -> None:
        set_variable("allowed_origins", "")
        assert "none: no browser page may connect" in text_of(browser.get(ORIGINS))

    def test_the_banner_says_the_rows_and_what_would_be_without(
        self, browser: Client, set_variable: SetVariable
    ) -> None:
        set_variable("allowed_origins", "https://variable.example.com")
        row = AllowedOrigin.objects.create(pattern="https://row.example.com")
        chosen = {"action": "delete_selected", "_selected_action": [row.pk]}
        pages = [
            browser.get(ORIGINS),
            browser.get(f"{ORIGINS}{row.pk}/change/"),
            browser.get(f"{ORIGINS}{row.pk}/delete/"),
            browser.post(ORIGINS, chosen),
        ]
        for page in pages:
            text = text_of(page)
            assert "In force now, set in the admin: https://row.example.com While" in text
            assert (
                "Without rows ( from STREAMING_WEBSOCKET__ALLOWED_ORIGINS ): "
                "https://variable.example.com" in text
            )

    def test_adding_changing_and_deleting(self, browser: Client) -> None:
        revisions = [current_revision()]
        browser.post(f"{ORIGINS}add/", {"pattern": " https://*.example.com ", "note": "all"})
        assert load_policy().config.allowed_origins == ["https://*.example.com"]
        revisions.append(current_revision())

        row = AllowedOrigin.objects.get()
        browser.post(f"{ORIGINS}{row.pk}/change/", {"pattern": "null", "note": ""})
        assert load_policy().config.allowed_origins == ["null"]
        revisions.append(current_revision())

        browser.post(f"{ORIGINS}{row.pk}/delete/", {"post": "yes"})
        assert load_policy().config.allowed_origins == ["*"]
        revisions.append(current_revision())

        assert revisions == sorted(set(revisions))
        assert log() == [
            "Added “https://*.example.com”.",
            "Changed “null” — Changed Pattern and Note.",
            "Deleted “null.”",
        ]

    @pytest.mark.parametrize("pattern", ["example.com", "https://a.example.com/", "https://*"])
    def test_a_wrong_pattern(self, browser: Client, pattern: str) -> None:
        page = browser.post(f"{ORIGINS}add/", {"pattern": pattern})
        assert form_errors(page) == {
            "pattern": [
                f"{pattern!r} is no origin: expected scheme://host[:port], "
                "scheme://*.host[:port], null or *"
            ]
        }

    def test_a_pattern_cannot_become_markup(self, browser: Client) -> None:
        AllowedOrigin.objects.create(pattern="<script>alert(1)</script>")
        assert "<script>alert(1)" not in browser.get(ORIGINS).content.decode()

    def test_who_may_only_view_cannot_change(self) -> None:
        row = AllowedOrigin.objects.create(pattern="null")
        browser = browser_of("view_allowedorigin")
        assert "In force now" in text_of(browser.get(ORIGINS))
        assert browser.post(f"{ORIGINS}add/", {"pattern": "*"}).status_code == 403
        assert browser.post(f"{ORIGINS}{row.pk}/delete/", {"post": "yes"}).status_code == 403
