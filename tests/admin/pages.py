"""The admin's pages, driven as a browser drives them: what the tests of this folder share."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client

from realtime.models import AccessToken

TOKENS = "/admin/realtime/accesstoken/"
ORIGINS = "/admin/realtime/allowedorigin/"
LIMITS = "/admin/realtime/limits/"
LIMITS_FORM = f"{LIMITS}1/change/"

SetVariable = Callable[[str, str], None]
Page = Any  # Django's test response


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
    return shown_secret(page), page


def shown_secret(page: Page) -> str:
    """Return the secret that a page shows."""
    match = re.search(r'<input id="secret"[^>]* value="(rt_[^"]+)"', page.content.decode())
    assert match is not None, text_of(page)
    return match[1]


def form_errors(page: Page) -> dict[str, list[str]]:
    """Return the errors beside the fields of a form page."""
    assert page.status_code == 200
    errors = page.context["adminform"].form.errors
    return {name: list(texts) for name, texts in errors.items()}


def log() -> list[str]:
    return [str(entry) for entry in LogEntry.objects.order_by("pk")]


def change_url(token: AccessToken) -> str:
    return f"{TOKENS}{token.pk}/change/"


def sessions() -> Iterator[dict[str, Any]]:
    """Yield what is stored of each session."""
    return (session.get_decoded() for session in Session.objects.all())
