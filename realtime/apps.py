"""Django's entry into the app: its name, and the checks that come with it."""

from django.apps import AppConfig


class RealtimeConfig(AppConfig):
    """The ``realtime`` app."""

    name = "realtime"
    verbose_name = "Real-time streaming"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks and keep the configuration's revision counter."""
        from realtime import checks, policy  # noqa: F401 - registration
