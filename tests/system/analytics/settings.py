"""The site's settings, with an app that has rules in code."""

from streaming_site.settings import *  # noqa: F403
from streaming_site.settings import INSTALLED_APPS

INSTALLED_APPS += ["tests.system.analytics.site"]
