"""The admin's pages, driven as a browser drives them."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.http import HttpRequest
from django.test import Client
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from realtime.auth.policy import current_revision, load_policy
from realtime.auth.tokens import create_token, digest, find_grant, revoke
from realtime.config import WEBSOCKET_PREFIX, get_streaming_config
from realtime.filters import OPERATORS
from realtime.models import AccessToken, AllowedOrigin, ConfigurationRevision, Limits, all_types

pytestmark = pytest.mark.django_db

TOKENS = "/admin/realtime/accesstoken/"
ORIGINS = "/admin/realtime/allowedorigin/"
LIMITS = "/admin/realtime/limits/"
LIMITS_FORM = f"{LIMITS}1/change/"

SetVariable = Callable[[str, str], None]
Page = Any  # Django's test response


@pytest.fixture
def administrator() -> User:
    return User.objects.create(username="admin", is_staff=True, is_superuser=True)


@pytest.fixture
def browser(administrator: User) -> Client:
    """A browser in which an administrator is logged in."""
    client = Client()
    client.force_login(administrator)
    return client


@pytest.fixture
def set_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetVariable]:
    """Set a variable as if the process had started with it."""

    def set_(name: str, value: str) -> None:
        monkeypatch.setenv(f"{WEBSOCKET_PREFIX}{name.upper()}", value)
        get_streaming_config.cache_clear()

    yield set_
    get_streaming_config.cache_clear()


def browser_of(*permissions: str) -> Client:
    """Return a browser of a staff member with some permissions, such as ``view_accesstoken``."""
    user = User.objects.create(username="maria", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def text_of(page: Page) -> str:
    """Return what the page says: no tags, entities resolved, white space as one space."""
    body = re.sub(r"(?s)<(script|style).*?</\1>", "", page.content.decode())
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def token_form(**fields: Any) -> dict[str, Any]:
    return {"name": "wallboard", "types": ["events", "alerts"], "filters": "{}"} | fields


def add_token(browser: Client, **fields: Any) -> tuple[str, Page]:
    """Add a token; return its secret and the page that shows it."""
    page = browser.post(f"{TOKENS}add/", token_form(**fields))
    found = re.search(r'<input id="secret"[^>]* value="(rt_[^"]+)"', page.content.decode())
    assert found, page.content.decode()
    return found[1], page


def form_errors(page: Page) -> dict[str, list[str]]:
    """Return the errors beside the fields of a form page."""
    assert page.status_code == 200
    found = page.context["adminform"].form.errors
    return {name: list(texts) for name, texts in found.items()}


def log() -> list[str]:
    return [str(entry) for entry in LogEntry.objects.order_by("pk")]


def change_url(token: AccessToken) -> str:
    return f"{TOKENS}{token.pk}/change/"


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


class TestNewToken:
    """Making a token."""

    def test_the_form_offers_all_six_types_checked(self, browser: Client) -> None:
        page = browser.get(f"{TOKENS}add/").content.decode()
        boxes = re.findall(r'<input type="checkbox" name="types" value="(\w+)"([^>]*)>', page)
        assert [name for name, _ in boxes] == all_types()
        assert all("checked" in attributes for _, attributes in boxes)

    def test_the_form_has_no_button_that_would_skip_the_secret(self, browser: Client) -> None:
        page = browser.get(f"{TOKENS}add/").content.decode()
        assert 'name="_save"' in page
        assert "_addanother" not in page
        assert "_continue" not in page

    def test_every_field(self, browser: Client, administrator: User) -> None:
        add_token(
            browser,
            owner=administrator.pk,
            filters='{"tenant_id": "acme", "level": [1, 2]}',
            can_publish="on",
            can_view_stats="on",
            expires_at_0="2100-01-02",
            expires_at_1="03:04:05",
            rate_limit_per_minute="7",
            max_connections="2",
        )
        token = AccessToken.objects.get()
        assert token.name == "wallboard"
        assert token.owner == administrator
        assert token.types == ["events", "alerts"]
        assert token.filters == {"tenant_id": "acme", "level": [1, 2]}
        assert token.can_publish
        assert token.can_view_stats
        assert token.expires_at == datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert token.rate_limit_per_minute == 7
        assert token.max_connections == 2

    def test_the_secret_works_and_only_its_digest_is_stored(self, browser: Client) -> None:
        secret, _ = add_token(browser)
        token = AccessToken.objects.get()
        assert bytes(token.digest) == hashlib.sha256(secret.encode()).digest()
        assert secret.startswith(f"{token.prefix}_")

    def test_the_page_has_a_line_of_javascript_to_copy(self, browser: Client) -> None:
        secret, page = add_token(browser)
        line = f'socket.send(JSON.stringify({{ type: "auth", data: {{ token: "{secret}" }} }}));'
        assert line in text_of(page)

    def test_the_page_with_the_secret_is_not_kept_by_caches(self, browser: Client) -> None:
        _, page = add_token(browser)
        assert page.status_code == 200
        assert "no-store" in page["Cache-Control"]

    def test_the_secret_is_shown_once_and_kept_nowhere(self, browser: Client) -> None:
        secret, page = add_token(browser)
        token = AccessToken.objects.get()
        random = secret.removeprefix(token.prefix)
        kept = [morsel.value for morsel in browser.cookies.values()]
        kept += [json.dumps(session.get_decoded()) for session in Session.objects.all()]
        kept += [json.dumps(entry, default=str) for entry in LogEntry.objects.values()]
        kept += [json.dumps(row, default=str) for row in AccessToken.objects.values()]
        for path in ("", "add/", f"{token.pk}/change/", f"{token.pk}/history/"):
            kept.append(browser.get(f"{TOKENS}{path}").content.decode())
        kept.append(browser.get("/admin/").content.decode())
        assert random in page.content.decode()
        assert not [text for text in kept if random in text]

    def test_a_form_makes_one_token_however_often_it_is_sent(self, browser: Client) -> None:
        form = browser.get(f"{TOKENS}add/").content.decode()
        found = re.search(r'name="reserved_prefix" value="(rt_[0-9a-f]{8})"', form)
        assert found
        secret, _ = add_token(browser, reserved_prefix=found[1])
        assert secret.startswith(found[1])

        again = browser.post(f"{TOKENS}add/", token_form(reserved_prefix=found[1]))
        assert "This form has been saved already" in text_of(again)
        assert secret not in again.content.decode()
        assert AccessToken.objects.count() == 1

    @pytest.mark.parametrize("prefix", ["x", "rt_0000000", "rt_0000000G", "rt_00000000\n\n"])
    def test_a_made_up_prefix_is_refused(self, browser: Client, prefix: str) -> None:
        page = browser.post(f"{TOKENS}add/", token_form(reserved_prefix=f"{prefix}!"))
        assert "reserved_prefix" in form_errors(page)

    def test_two_forms_make_two_tokens(self, browser: Client) -> None:
        assert add_token(browser)[0] != add_token(browser)[0]
        assert AccessToken.objects.count() == 2

    def test_it_is_logged_and_raises_the_revision(self, browser: Client) -> None:
        revision = current_revision()
        add_token(browser)
        assert log() == [f"Added “{AccessToken.objects.get()}”."]
        assert current_revision() > revision

    @pytest.mark.parametrize(
        ("filters", "message"),
        [
            ("[]", "filters: expected an object"),
            ("[1]", "filters: expected an object"),
            ('"x"', "filters: expected an object"),
            ("7", "filters: expected an object"),
            ('{"a..b": 1}', "filters: the path 'a..b' has an empty step"),
            ('{"a": []}', "filters: 'a' has no values"),
            (
                '{"a": {"b": 1}}',
                "filters: 'a': unknown operator 'b', expected one of " + ", ".join(OPERATORS),
            ),
        ],
    )
    def test_wrong_filters_get_the_compilers_message(
        self, browser: Client, filters: str, message: str
    ) -> None:
        page = browser.post(f"{TOKENS}add/", token_form(filters=filters))
        assert form_errors(page) == {"filters": [message]}
        assert message in text_of(page)
        assert not AccessToken.objects.exists()

    @pytest.mark.parametrize(
        "filters", ["{", "tenant=acme", "{'a': 1}", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 50_000]
    )
    def test_filters_that_are_no_json(self, browser: Client, filters: str) -> None:
        page = browser.post(f"{TOKENS}add/", token_form(filters=filters))
        assert form_errors(page) == {
            "filters": ['This is not JSON. Expected e.g. {"tenant_id": "acme"}.']
        }
        assert filters in html.unescape(page.content.decode())

    @pytest.mark.parametrize("filters", ["", "{}", "null"])
    def test_no_filters(self, browser: Client, filters: str) -> None:
        add_token(browser, filters=filters)
        assert AccessToken.objects.get().filters == {}

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"name": ""}, {"name": ["This field is required."]}),
            ({"types": []}, {"types": ["Choose at least one subscription type."]}),
            (
                {"expires_at_0": "2001-01-01", "expires_at_1": "00:00"},
                {"expires_at": ["This time is in the past."]},
            ),
            (
                {"max_connections": "0"},
                {"max_connections": ["Ensure this value is greater than or equal to 1."]},
            ),
        ],
    )
    def test_wrong_fields(
        self, browser: Client, fields: dict[str, Any], message: dict[str, list[str]]
    ) -> None:
        page = browser.post(f"{TOKENS}add/", token_form(**fields))
        assert form_errors(page) == message

    def test_an_unknown_type_is_refused(self, browser: Client) -> None:
        page = browser.post(f"{TOKENS}add/", token_form(types=["events", "nothing"]))
        assert list(form_errors(page)) == ["types"]

    def test_who_may_only_add_sees_the_secret_and_no_list(self) -> None:
        browser = browser_of("add_accesstoken")
        secret, page = add_token(browser)
        assert secret in text_of(page)
        assert browser.get(TOKENS).status_code == 403
        assert f'href="{TOKENS}"' not in page.content.decode()

    def test_who_may_not_add_cannot(self) -> None:
        browser = browser_of("view_accesstoken", "change_accesstoken", "delete_accesstoken")
        assert browser.post(f"{TOKENS}add/", token_form()).status_code == 403
        assert not AccessToken.objects.exists()

    def test_the_owner_is_chosen_by_searching(self, browser: Client) -> None:
        found = browser.get(
            "/admin/autocomplete/",
            {
                "app_label": "realtime",
                "model_name": "accesstoken",
                "field_name": "owner",
                "term": "adm",
            },
        )
        assert [item["text"] for item in found.json()["results"]] == ["admin"]


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
    def made(self) -> tuple[AccessToken, str]:
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

    def secret(self, page: Page) -> str:
        found = re.search(r'<input id="secret"[^>]* value="(rt_[^"]+)"', page.content.decode())
        assert found is not None, text_of(page)
        return found[1]

    def test_it_asks_first(self, browser: Client, made: tuple[AccessToken, str]) -> None:
        token, secret = made
        text = text_of(self.post(browser, token))
        assert "The token gets a new secret and keeps its rights." in text and str(token) in text
        assert "The old secret works for" in text
        assert find_grant(digest(secret)) is not None and log() == []

    def test_the_new_secret_is_shown_once_and_the_old_one_works_a_while(
        self, browser: Client, made: tuple[AccessToken, str]
    ) -> None:
        token, old = made
        revision = current_revision()
        page = self.confirm(browser, token)
        new = self.secret(page)
        by_old, by_new = find_grant(digest(old)), find_grant(digest(new))
        assert by_old is not None and by_new is not None
        assert by_old.filters == by_new.filters and by_old.expires_at is not None
        assert "The old one works until" in text_of(page)
        (entry,) = log()
        assert entry.startswith(f"Changed “{token}” — Rotated; the secret before works until")
        assert current_revision() > revision
        stored = [*LogEntry.objects.values_list("change_message", flat=True), *map(str, sessions())]
        assert not [text for text in stored if new in text or old in text]

    def test_without_overlap(self, browser: Client, made: tuple[AccessToken, str]) -> None:
        token, old = made
        page = self.confirm(browser, token, overlap="0")
        assert find_grant(digest(old)) is None
        assert find_grant(digest(self.secret(page))) is not None
        assert "The old one has ended." in text_of(page)

    def test_a_second_click_does_not_end_the_first_secret(
        self, browser: Client, made: tuple[AccessToken, str]
    ) -> None:
        token, old = made
        form = self.post(browser, token)
        state = re.search(r'name="state" value="([0-9a-f]+)"', form.content.decode())
        assert state is not None
        fields = {"post": "yes", "overlap": "24", "state": state[1]}
        new = self.secret(self.post(browser, token, **fields))
        again = text_of(self.post(browser, token, **fields))
        assert "has been changed meanwhile" in again
        assert find_grant(digest(old)) is not None and find_grant(digest(new)) is not None

    @pytest.mark.parametrize("overlap", ["", "-1", "2", "x"])
    def test_a_wrong_overlap_is_told(
        self, browser: Client, made: tuple[AccessToken, str], overlap: str
    ) -> None:
        token, secret = made
        assert "The old secret works for" in text_of(self.confirm(browser, token, overlap))
        token.refresh_from_db()
        assert bytes(token.digest) == digest(secret)

    def test_one_at_a_time(self, browser: Client, made: tuple[AccessToken, str]) -> None:
        other, _ = create_token("other")
        assert "Select one token" in text_of(self.post(browser, made[0], other))
        revoke([other])
        assert "Select one token" in text_of(self.post(browser, other))
        assert log() == []

    def test_a_tokens_page_offers_it(self, browser: Client, made: tuple[AccessToken, str]) -> None:
        assert 'value="rotate_token"' in browser.get(change_url(made[0])).content.decode()
        revoke([made[0]])
        assert "rotate_token" not in browser.get(change_url(made[0])).content.decode()

    def test_it_takes_the_permission_to_change(self, made: tuple[AccessToken, str]) -> None:
        browser = browser_of("view_accesstoken", "delete_accesstoken")
        assert "rotate_token" not in browser.get(TOKENS).content.decode()
        self.post(browser, made[0], post="yes", overlap="0")
        assert find_grant(digest(made[1])) is not None


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


def sessions() -> Iterator[dict[str, Any]]:
    """Yield what is stored of each session."""
    return (session.get_decoded() for session in Session.objects.all())


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
