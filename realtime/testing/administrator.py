"""A process that runs the Python it is told on standard input, with Django set up.

A publisher, and an administrator at ``manage.py shell``, but for the second it takes to start:
tests keep one. A line is ``[statements, {name: value, ...}]``; the answer is what they leave in
``result``.
"""

from __future__ import annotations

import json
import sys
import traceback
from datetime import timedelta
from typing import Any


def main() -> None:
    """Run statements until standard input ends."""
    import django

    django.setup()
    from channels.layers import get_channel_layer
    from django.contrib.auth.models import User
    from django.utils import timezone

    from realtime import models, publish_many
    from realtime.auth import tokens as auth

    known = {
        "AccessToken": models.AccessToken,
        "AllowedOrigin": models.AllowedOrigin,
        "Limits": models.Limits,
        "create_token": auth.create_token,
        "get_channel_layer": get_channel_layer,
        "publish_many": publish_many,
        "rotate": auth.rotate,
        "timedelta": timedelta,
        "User": User,
        "timezone": timezone,
    }
    for line in sys.stdin:
        statements, values = json.loads(line)
        names: dict[str, Any] = known | values
        try:
            exec(statements, names)
            answer = {"result": names.get("result")}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
