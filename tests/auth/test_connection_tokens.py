"""Connection tokens: who gets one, for how long it opens a connection, and what it grants."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core import signing
from django.test import Client

from realtime.auth import connection_tokens
from realtime.auth.connection_tokens import LIFETIME, find_user_grant, issue, live_user_grants
from realtime.auth.policy import current_revision
from realtime.filters import EVERYTHING, conjunction
from realtime.filters.compiler import compile_filters
from realtime.models import GroupFilters
from realtime.protocol import SUBSCRIPTION_TYPES

pytestmark = pytest.mark.django_db
PATH = "/api/token"


def permission(kind: str) -> Permission:
    return Permission.objects.get(codename=f"view_{kind}", content_type__app_label="realtime")


def make_user(*types: str, **fields: Any) -> User:
    """Create a user who may receive these types."""
    user = User.objects.create_user("maria", **fields)
    user.user_permissions.set(permission(kind) for kind in types)
    return User.objects.get(pk=user.pk)


def group(name: str, filters: dict[str, Any], *types: str) -> Group:
    """Create a group with filters and permissions."""
    made = Group.objects.create(name=name)
    made.permissions.set(permission(kind) for kind in types)
    GroupFilters.objects.create(group=made, filters=filters)
    return made


class TestGrant:
    """What a token grants."""

    def test_the_types_of_the_users_permissions(self) -> None:
        user = make_user("events", "alerts")
        token, _ = issue(user)
        grant = find_user_grant(token)
        assert grant is not None
        assert grant.holder == f"user:{user.pk}" and grant.types == {"events", "alerts"}
        assert grant.filters == EVERYTHING and grant.expires_at is None
        assert not grant.can_publish and not grant.can_view_stats

    def test_a_superuser_has_all(self) -> None:
        grant = find_user_grant(issue(User.objects.create_superuser("root"))[0])
        assert grant is not None and grant.types == set(SUBSCRIPTION_TYPES)

    def test_types_and_filters_of_groups(self) -> None:
        user = make_user("events")
        user.groups.add(group("acme", {"tenant_id": "acme"}, "alerts"))
        user.groups.add(group("europe", {"region": ["eu", "uk"]}))
        grant = find_user_grant(issue(user)[0])
        assert grant is not None and grant.types == {"events", "alerts"}
        expected = compile_filters({"tenant_id": "acme", "region": ["eu", "uk"]})
        assert grant.filters == expected

    def test_groups_that_contradict_each_other_leave_nothing(self) -> None:
        user = make_user("events")
        user.groups.add(group("acme", {"tenant_id": "acme"}), group("other", {"tenant_id": "o"}))
        grant = find_user_grant(issue(user)[0])
        both = [compile_filters({"tenant_id": name}) for name in ("acme", "o")]
        assert grant is not None and grant.filters == conjunction(*both) != EVERYTHING

    def test_filters_that_cannot_be_read_grant_nothing(self) -> None:
        user = make_user("events")
        user.groups.add(group("acme", {"tenant_id": "acme"}))
        GroupFilters.objects.update(filters={"": []})
        assert find_user_grant(issue(user)[0]) is None

    def test_a_user_without_rights_or_deactivated_is_granted_nothing(self) -> None:
        user = make_user("events")
        token, _ = issue(user)
        User.objects.update(is_active=False)
        assert find_user_grant(token) is None and live_user_grants([user.pk]) == {}
        User.objects.update(is_active=True)
        assert find_user_grant(token) is not None
        user.user_permissions.clear()
        assert find_user_grant(token) is None and live_user_grants([user.pk]) == {}

    def test_live_grants(self) -> None:
        user = make_user("events")
        (holder, grant), *others = live_user_grants([user.pk, 10**6]).items()
        assert holder == grant.holder == f"user:{user.pk}" and not others


class TestToken:
    """What is a token."""

    def test_it_works_for_a_minute(self) -> None:
        token, expires_at = issue(make_user("events"))
        with mock.patch("django.core.signing.time.time") as clock:
            clock.return_value = expires_at - 2
            assert find_user_grant(token) is not None
            clock.return_value = expires_at + 2
            assert find_user_grant(token) is None

    def test_a_changed_password_ends_it(self) -> None:
        user = make_user("events")
        token, _ = issue(user)
        user.set_password("another")
        user.save()
        assert find_user_grant(token) is None

    def test_what_is_none(self) -> None:
        user = make_user("events")
        token, _ = issue(user)
        others = (
            signing.dumps([user.pk, "x"], salt="another"),
            signing.dumps([user.pk, ""], salt=connection_tokens._SALT),
            signing.dumps(user.pk, salt=connection_tokens._SALT),
            signing.dumps([user.pk], salt=connection_tokens._SALT),
            signing.dumps(["x", "y"], salt=connection_tokens._SALT),
        )
        for wrong in ("", "ct_", "ct_x", token[:-1], f"{token}x", token.upper(), *others):
            for text in (wrong, f"ct_{wrong}"):
                assert find_user_grant(text) is None, text


class TestRevision:
    """What servers have to hear of."""

    def test_changed_rights(self) -> None:
        user, other = make_user(), Group.objects.create(name="acme")
        changes = (
            lambda: user.user_permissions.add(permission("events")),
            lambda: user.groups.add(other),
            lambda: other.permissions.add(permission("alerts")),
            lambda: GroupFilters.objects.create(group=other, filters={"a": 1}),
            lambda: GroupFilters.objects.update(filters={"a": 2}),
            lambda: user.groups.clear(),
            lambda: other.permissions.clear(),
        )
        for change in changes:
            before = current_revision()
            change()
            assert current_revision() > before


class TestView:
    """``POST /api/token``."""

    @pytest.fixture
    def browser(self) -> Client:
        """A browser in which a user is logged in, with its CSRF token as a page sends it."""
        browser = Client(enforce_csrf_checks=True)
        browser.force_login(make_user("events", "alerts"))
        return browser

    def post(self, browser: Client, **headers: str) -> Any:
        browser.cookies["csrftoken"] = "x" * 32
        return browser.post(PATH, headers={"X-CSRFToken": "x" * 32, **headers})

    def test_a_token(self, browser: Client) -> None:
        reply = self.post(browser)
        assert reply.status_code == 200 and "no-store" in reply["Cache-Control"]
        body = reply.json()
        assert body["types"] == ["events", "alerts"]
        assert find_user_grant(body["token"]) is not None
        left = datetime.fromisoformat(body["expires_at"]).timestamp()
        assert left > 0 and LIFETIME == 60

    def test_without_a_login(self) -> None:
        reply = self.post(Client(enforce_csrf_checks=True))
        assert reply.status_code == 401
        assert json.loads(reply.content) == {
            "error": "Authentication required",
            "code": "auth_required",
        }

    def test_without_rights(self) -> None:
        browser = Client(enforce_csrf_checks=True)
        browser.force_login(User.objects.create_user("nobody"))
        reply = self.post(browser)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")

    def test_without_a_csrf_token(self, browser: Client) -> None:
        assert browser.post(PATH).status_code == 403

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
        ],
    )
    def test_from_another_sites_page(self, browser: Client, headers: dict[str, str]) -> None:
        assert self.post(browser, **headers).status_code == 403

    def test_from_this_sites_page(self, browser: Client) -> None:
        headers = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
        assert self.post(browser, **headers).status_code == 200

    def test_only_posted(self, browser: Client) -> None:
        assert browser.get(PATH).status_code == 405
