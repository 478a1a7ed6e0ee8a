"""Making an access token, and the page that shows its secret."""

from __future__ import annotations

import hashlib
import html
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client

from realtime.auth.policy import current_revision
from realtime.filters.compiler import OPERATORS
from realtime.models import AccessToken, all_types
from tests.admin.pages import (
    TOKENS,
    add_token,
    browser_of,
    form_errors,
    log,
    text_of,
    token_form,
)

pytestmark = pytest.mark.django_db


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
        stored = [morsel.value for morsel in browser.cookies.values()]
        stored += [json.dumps(session.get_decoded()) for session in Session.objects.all()]
        stored += [json.dumps(entry, default=str) for entry in LogEntry.objects.values()]
        stored += [json.dumps(row, default=str) for row in AccessToken.objects.values()]
        for path in ("", "add/", f"{token.pk}/change/", f"{token.pk}/history/"):
            stored.append(browser.get(f"{TOKENS}{path}").content.decode())
        stored.append(browser.get("/admin/").content.decode())
        assert random in page.content.decode()
        assert not [text for text in stored if random in text]

    def test_a_form_makes_one_token_however_often_it_is_sent(self, browser: Client) -> None:
        form = browser.get(f"{TOKENS}add/").content.decode()
        match = re.search(r'name="reserved_prefix" value="(rt_[0-9a-f]{8})"', form)
        assert match
        secret, _ = add_token(browser, reserved_prefix=match[1])
        assert secret.startswith(match[1])

        again = browser.post(f"{TOKENS}add/", token_form(reserved_prefix=match[1]))
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
        page = browser.get(
            "/admin/autocomplete/",
            {
                "app_label": "realtime",
                "model_name": "accesstoken",
                "field_name": "owner",
                "term": "adm",
            },
        )
        assert [item["text"] for item in page.json()["results"]] == ["admin"]
