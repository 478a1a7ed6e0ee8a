"""Connection tokens: with these a page of a logged-in user authenticates on its WebSocket.

They are signed, not stored, and valid for a minute. They grant the user's rights: a permission for
each subscription type (``realtime.view_events`` and so on) and the filters of the user's groups.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import reduce
from typing import Any

from django.contrib.auth import get_user_model
from django.core import signing
from django.utils.crypto import constant_time_compare

from realtime.auth.grants import Grant, HolderType
from realtime.auth.models import GroupFilters
from realtime.filters import EVERYTHING, conjunction
from realtime.filters.compiler import FilterError, compile_filters
from realtime.protocol import SUBSCRIPTION_TYPES

logger = logging.getLogger(__name__)

MARK = "ct_"
# Seconds in which a page must authenticate. The connection may stay open longer.
LIFETIME = 60
_SALT = "realtime.connection_tokens"


def issue(user: Any) -> tuple[str, float]:
    """Return a token for a user, and when it expires, in seconds since 1970."""
    text = signing.dumps([user.pk, _password_state(user)], salt=_SALT)
    return MARK + text, time.time() + LIFETIME


def find_user_grant(token: str) -> Grant | None:
    """Return what a connection token grants; ``None`` if it is not valid or grants nothing."""
    try:
        key, state = signing.loads(token.removeprefix(MARK), salt=_SALT, max_age=LIFETIME)
        user = get_user_model()._default_manager.filter(pk=key).first()
    except (signing.BadSignature, ValueError, TypeError):
        return None
    if user is None or not constant_time_compare(state, _password_state(user)):
        return None
    return grant_of_user(user)


def live_user_grants(keys: Iterable[int]) -> dict[str, Grant]:
    """Return what users that have any right now are granted, by holder."""
    users = get_user_model()._default_manager.filter(pk__in=list(keys))
    grants = [grant for user in users if (grant := grant_of_user(user)) is not None]
    return {grant.holder: grant for grant in grants}


def grant_of_user(user: Any) -> Grant | None:
    """Return a user's rights; ``None`` if there are none, or filters that cannot be read."""
    types = [kind for kind in SUBSCRIPTION_TYPES if user.has_perm(f"realtime.view_{kind}")]
    if not types:  # a deactivated user has no permission
        return None
    groups = GroupFilters.objects.filter(group__user=user).order_by("pk")
    try:
        filters = reduce(conjunction, [compile_filters(row.filters) for row in groups], EVERYTHING)
    except FilterError as error:
        logger.error("the user %s is granted nothing: %s", user.pk, error)
        return None
    return Grant(f"{HolderType.USER}:{user.pk}", None, frozenset(types), filters)


def _password_state(user: Any) -> str:
    """Return a text that changes with the user's password and does not reveal it."""
    return str(user.get_session_auth_hash()[:16])
