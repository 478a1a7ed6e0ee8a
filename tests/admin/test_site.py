"""What is in the admin, and for whom."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import NoReverseMatch, reverse

from realtime.models import AccessToken, ConfigurationRevision
from tests.admin.pages import (
    LIMITS,
    LIMITS_FORM,
    ORIGINS,
    TOKENS,
    Page,
    browser_of,
    text_of,
    token_form,
)

pytestmark = pytest.mark.django_db


class TestSite:
    """What is in the admin, and for whom."""

    def test_login_leads_to_the_page_that_was_asked_for(self, settings: Any) -> None:
        settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
        User.objects.create_superuser("root", password="correct")
        client = Client()
        login: Page = client.get(TOKENS)
        assert login.status_code == 302
        wrong = client.post(login.url, {"username": "root", "password": "wrong"})
        assert "Please enter the correct username and password" in text_of(wrong)
        right = client.post(login.url, {"username": "root", "password": "correct"}, follow=True)
        assert right.redirect_chain == [(TOKENS, 302)]
        assert right.status_code == 200

    def test_the_index_lists_what_is_managed(self, browser: Client) -> None:
        text = text_of(browser.get("/admin/"))
        for name in ("Access tokens", "Allowed origins", "Limits"):
            assert name in text

    def test_the_revision_is_not_in_the_admin(self) -> None:
        assert not admin.site.is_registered(ConfigurationRevision)
        with pytest.raises(NoReverseMatch):
            reverse("admin:realtime_configurationrevision_changelist")

    @pytest.mark.parametrize("path", [TOKENS, f"{TOKENS}add/", ORIGINS, LIMITS, LIMITS_FORM])
    def test_strangers_are_asked_to_log_in(self, path: str) -> None:
        page: Page = Client().get(path)
        assert page.status_code == 302
        assert page.url.startswith("/admin/login/")

    @pytest.mark.parametrize("path", [TOKENS, f"{TOKENS}add/", ORIGINS, LIMITS, LIMITS_FORM])
    def test_staff_without_permissions_is_refused(self, path: str) -> None:
        assert browser_of().get(path).status_code == 403

    def test_forms_are_protected_against_forgery(self, administrator: User) -> None:
        client = Client(enforce_csrf_checks=True)
        client.force_login(administrator)
        assert client.post(f"{TOKENS}add/", token_form()).status_code == 403
        assert not AccessToken.objects.exists()
