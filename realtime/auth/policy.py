"""The policy in force: the environment's configuration with the administrators' changes on top.

Running servers read the revision, which is one row, each second (:data:`POLL_INTERVAL`), and load
the policy again when it has changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.dispatch import receiver

from realtime.auth import models
from realtime.auth.models import ConfigurationRevision, Limits, raise_revision
from realtime.config import WEBSOCKET_PREFIX, WebSocketConfig, get_streaming_config

POLL_INTERVAL = 1.0
# The settings that administrators can change; allowed origins have a table of their own.
LIMIT_FIELDS = tuple(column.name for column in Limits._meta.fields if not column.primary_key)


@dataclass(frozen=True)
class Policy:
    """The configuration in force and which of its fields an administrator has set."""

    config: WebSocketConfig
    overridden: frozenset[str] = field(default_factory=frozenset)

    def source(self, name: str) -> str:
        """Say where the value of a field comes from: the admin, a variable or the default."""
        if name in self.overridden:
            return "set in the admin"
        if name in self.config.model_fields_set:
            return f"from {WEBSOCKET_PREFIX}{name.upper()}"
        return "default"


def environment_policy() -> Policy:
    """Return the policy as the environment alone has it."""
    return Policy(get_streaming_config().websocket)


def load_policy() -> Policy:
    """Read limits and origins from the database and lay them over the environment's."""
    limits = Limits.objects.filter(pk=1).values(*LIMIT_FIELDS).first() or {}
    changes: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    if origins := list(models.AllowedOrigin.objects.values_list("pattern", flat=True)):
        changes["allowed_origins"] = origins
    return Policy(get_streaming_config().websocket.model_copy(update=changes), frozenset(changes))


def current_revision() -> int:
    """Return the revision of what administrators manage: higher after every change."""
    numbers = ConfigurationRevision.objects.filter(pk=1).values_list("number", flat=True)
    return numbers.first() or 0


@receiver([post_save, post_delete], sender=models.AccessToken)
@receiver([post_save, post_delete], sender=models.AllowedOrigin)
@receiver([post_save, post_delete], sender=models.GroupFilters)
@receiver([post_save, post_delete], sender=Limits)
def _revise(**kwargs: Any) -> None:
    raise_revision()


@receiver(m2m_changed)
def _revise_for_rights(sender: Any, action: str, **kwargs: Any) -> None:
    """Let servers know of changed permissions of users and groups, and of changed members."""
    if action.startswith("post_") and sender in _rights():
        raise_revision()


@cache
def _rights() -> tuple[Any, ...]:
    """Return the tables between users, groups and permissions that the user model has."""
    user = get_user_model()
    relations = (getattr(user, name, None) for name in ("groups", "user_permissions"))
    return tuple(getattr(each, "through", None) for each in (Group.permissions, *relations) if each)


@receiver(post_save, sender=settings.AUTH_USER_MODEL)
def _revise_for_user(
    created: bool, raw: bool, update_fields: frozenset[str] | None, **kwargs: Any
) -> None:
    """Let servers know of a changed user; a new one has no tokens, and a login changes nothing."""
    only_login = update_fields is not None and set(update_fields) == {"last_login"}
    if not (created or raw or only_login):
        raise_revision()
