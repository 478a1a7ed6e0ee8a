"""Preparing the database before a command uses it: its tables are made, or looked for."""

from __future__ import annotations

import fcntl
import logging

from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import Error, connections
from django.db.migrations.executor import MigrationExecutor

from realtime.config import read_site_config

logger = logging.getLogger(__name__)


def prepare_database(*, must_answer: bool = True) -> None:
    """Migrate the embedded database; check that one that ``DATABASE_URL`` names has its tables.

    Raises:
        django.core.management.CommandError: it cannot be used, or it does not answer although it
            *must_answer*.
    """
    if not read_site_config().database_url.get_secret_value():
        # One process at a time: two commands may be the first at the same moment.
        with (settings.DATA_DIR / "migrate.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                call_command("migrate", verbosity=0, interactive=False)
            except Error as error:
                raise CommandError(f"the database in {settings.DATA_DIR}: {error}") from None
        return
    # Without a pool: that would try again and again, and not say why it has no connection.
    connection = connections["default"].copy()
    connection.settings_dict["OPTIONS"].pop("pool", None)
    try:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise CommandError("the database lacks tables: run manage.py migrate")
    except Error as error:
        text = f"the database does not answer: {str(error).partition(chr(10))[0]}"
        if must_answer:
            raise CommandError(text) from None
        logger.warning("%s", text)
    finally:
        connection.close()
