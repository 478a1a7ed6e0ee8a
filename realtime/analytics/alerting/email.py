"""E-mails on alerts, sent the way Django's settings say. Knows nothing of when to try again."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parseaddr
from typing import Any

import msgspec
from django.conf import settings
from django.core.mail import EmailMessage

from realtime.analytics.alerting.messages import group_text

MAX_SUBJECT = 150


def send(addresses: Sequence[str], alert_body: str, message_id: str) -> None:
    """Send one e-mail to all addresses. Raises what the mail server's library raises."""
    alert: dict[str, Any] = msgspec.json.decode(alert_body)
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or "localhost"
    headers = {
        # The same again when it is sent again.
        "Message-ID": f"<{message_id}@{domain}>",
        "Auto-Submitted": "auto-generated",
    }
    EmailMessage(_subject(alert), _text(alert), None, list(addresses), headers=headers).send()


def _subject(alert: dict[str, Any]) -> str:
    """Return a subject of one line, whatever a group's values hold."""
    text = f"[{alert['severity']}] {alert['rule']} {alert['state']}{group_text(alert['group'])}"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_SUBJECT]


def _text(alert: dict[str, Any]) -> str:
    names = ("state", "severity", "value", "threshold", "started_at", "resolved_at", "alert_id")
    lines = [f"{name}: {alert[name]}" for name in names if alert.get(name) is not None]
    lines += [f"{path}: {value}" for path, value in alert["group"].items()]
    return "\n".join([str(alert["message"]), "", *lines, ""])
