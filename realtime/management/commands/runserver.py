"""``manage.py runserver``: Daphne's, with this project's server."""

from __future__ import annotations

from typing import Any

from daphne.management.commands.runserver import Command as DaphneCommand

from realtime.management.database import prepare_database
from realtime.management.running import refuse_unfit_stores
from realtime.server.daphne import StreamServer


class Command(DaphneCommand):
    """Runs the development server with autoreload."""

    server_cls = StreamServer

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Migrate the embedded database, look at the servers of ``REDIS_URL``, then serve."""
        prepare_database()
        refuse_unfit_stores()
        super().inner_run(*args, **options)
