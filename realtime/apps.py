"""The app as Django loads it: its name, and what is registered when it is ready."""

from django.apps import AppConfig, apps
from django.db.models.signals import post_save


class RealtimeConfig(AppConfig):
    """The ``realtime`` app."""

    name = "realtime"
    verbose_name = "Real-time streaming"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register system checks and the signals that raise the revision and audit the admin."""
        from realtime import checks  # noqa: F401 - registers the checks
        from realtime.auth import policy  # noqa: F401 - connects the signals
        from realtime.monitoring.logs import record_admin_change

        if apps.is_installed("django.contrib.admin"):
            from django.contrib.admin.models import LogEntry

            post_save.connect(record_admin_change, sender=LogEntry, dispatch_uid="realtime.audit")
