"""The admin's pages of limits and of allowed origins."""

from __future__ import annotations

import pytest
from django.test import Client

from realtime.auth.policy import current_revision, load_policy
from realtime.models import AllowedOrigin, Limits
from tests.admin.pages import (
    LIMITS,
    LIMITS_FORM,
    ORIGINS,
    Page,
    SetVariable,
    browser_of,
    form_errors,
    log,
    text_of,
)

pytestmark = pytest.mark.django_db


class TestLimits:
    """The one form of limits."""

    def test_the_list_leads_to_the_form(self, browser: Client) -> None:
        page: Page = browser.get(LIMITS)
        assert (page.status_code, page.url) == (302, LIMITS_FORM)

    def test_looking_at_the_form_makes_no_row(self, browser: Client) -> None:
        assert browser.get(LIMITS_FORM).status_code == 200
        assert not Limits.objects.exists()

    def test_each_field_says_what_is_in_force(
        self, browser: Client, set_variable: SetVariable
    ) -> None:
        set_variable("max_connections", "500")
        set_variable("rate_limit_per_minute", "120")
        set_variable("enable_rate_limiting", "false")
        Limits.objects.create(max_connections=50, max_message_size=2048)
        text = text_of(browser.get(LIMITS_FORM))
        prefix = "from STREAMING_WEBSOCKET__"
        assert "in force: 50, set in the admin Connections of one server process." in text
        assert f"Empty: 500, {prefix}MAX_CONNECTIONS." in text
        assert f"in force: 120, {prefix}RATE_LIMIT_PER_MINUTE" in text
        assert f"in force: off, {prefix}ENABLE_RATE_LIMITING" in text
        assert "As in the environment (off) On Off" in text
        assert "in force: 30, default" in text
        assert "in force: 100, default" in text
        assert "in force: 2048, set in the admin" in text
        assert "Empty: 1048576, default." in text

    def test_the_first_save_makes_the_row(self, browser: Client) -> None:
        revision = current_revision()
        page = browser.post(LIMITS_FORM, {"rate_limit_per_minute": "7"}, follow=True)
        assert page.redirect_chain == [(LIMITS_FORM, 302)]
        assert "Saved. Running servers follow within 2 seconds." in text_of(page)
        assert "in force: 7, set in the admin" in text_of(page)
        assert load_policy().config.rate_limit_per_minute == 7
        assert current_revision() > revision
        assert log() == ["Changed “Limits” — Changed Rate limit per minute."]

    def test_emptying_a_field_gives_the_environment_back(self, browser: Client) -> None:
        Limits.objects.create(rate_limit_per_minute=7, enable_rate_limiting=False)
        page = browser.post(LIMITS_FORM, {"rate_limit_per_minute": ""}, follow=True)
        assert "in force: 60, default" in text_of(page)
        assert load_policy().overridden == frozenset()

    @pytest.mark.parametrize(("choice", "value"), [("true", True), ("false", False)])
    def test_the_switch(
        self, browser: Client, set_variable: SetVariable, choice: str, value: bool
    ) -> None:
        set_variable("enable_rate_limiting", str(not value))
        browser.post(LIMITS_FORM, {"enable_rate_limiting": choice})
        assert load_policy().config.enable_rate_limiting is value
        page = browser.get(LIMITS_FORM).content.decode()
        assert f'<option value="{choice}" selected>' in page

    @pytest.mark.parametrize(
        ("name", "value"),
        [("max_connections", "0"), ("max_message_size", "5"), ("max_connections", "x")],
    )
    def test_a_wrong_value(self, browser: Client, name: str, value: str) -> None:
        page = browser.post(LIMITS_FORM, {name: value})
        assert list(form_errors(page)) == [name]
        assert not Limits.objects.exists()

    def test_there_is_nothing_to_add_or_delete(self, browser: Client) -> None:
        Limits.objects.create(max_connections=5)
        assert browser.get(f"{LIMITS}add/").status_code == 403
        assert browser.post(f"{LIMITS}1/delete/", {"post": "yes"}).status_code == 403
        page = browser.get(LIMITS_FORM).content.decode()
        assert "deletelink" not in page
        assert "_addanother" not in page
        assert Limits.objects.exists()

    def test_there_is_one_row(self, browser: Client) -> None:
        page: Page = browser.get(f"{LIMITS}2/change/")
        assert (page.status_code, page.url) == (302, "/admin/")

    def test_the_history(self, browser: Client) -> None:
        assert browser.get(f"{LIMITS}1/history/").status_code == 200
        browser.post(LIMITS_FORM, {"max_connections": "5"})
        assert "Changed Max connections." in text_of(browser.get(f"{LIMITS}1/history/"))

    def test_who_may_only_view_sees_what_is_in_force(self) -> None:
        browser = browser_of("view_limits")
        text = text_of(browser.get(LIMITS_FORM))
        assert "in force: 60, default" in text
        assert 'name="_save"' not in browser.get(LIMITS_FORM).content.decode()
        assert browser.post(LIMITS_FORM, {"max_connections": "5"}).status_code == 403
        assert not Limits.objects.exists()


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
