"""The project's settings, with the app of this package."""

from streaming_site.settings import *  # noqa: F403
from streaming_site.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.support.declared"]
