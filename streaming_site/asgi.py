"""The ASGI application: HTTP to Django, WebSockets and event streams to the ``realtime`` app."""

import os
import sys

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "streaming_site.settings")
django_application = get_asgi_application()

# Only now: these need Django's apps.
from channels.routing import ProtocolTypeRouter

from realtime.http.middleware import ForwardedAddress
from realtime.routing import HttpApplication, websocket_application

if "daphne.server" in sys.modules:
    # Close codes and limits are those of docs/protocol.md under the `daphne` command too.
    from realtime.server.daphne import install

    install()

application = ForwardedAddress(
    ProtocolTypeRouter(
        {"http": HttpApplication(django_application), "websocket": websocket_application}
    )
)
