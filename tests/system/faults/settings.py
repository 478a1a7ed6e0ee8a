"""The site's settings with a channel layer that loses messages."""

from streaming_site.settings import *  # noqa: F403
from streaming_site.settings import CHANNEL_LAYERS

CHANNEL_LAYERS["default"]["BACKEND"] = "tests.system.faults.lossy.LossyLayer"
