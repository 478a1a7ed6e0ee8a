"""The Django project that serves the ``realtime`` app."""
