"""Django's entry into the app: its name, and the checks that come with it."""

from django.apps import AppConfig, apps
from django.db.models.signals import post_save


class RealtimeConfig(AppConfig):
    """The ``realtime`` app."""

    name = "realtime"
    verbose_name = "Real-time streaming"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, keep the configuration's revision, watch the admin's log."""
        from realtime import checks  # noqa: F401 - registration
        from realtime.auth import policy  # noqa: F401 - registration
        from realtime.monitoring.audit_log import record_admin_change

        if apps.is_installed("django.contrib.admin"):
            from django.contrib.admin.models import LogEntry

            post_save.connect(record_admin_change, sender=LogEntry, dispatch_uid="realtime.audit")
