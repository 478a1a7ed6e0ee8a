"""The configuration: every environment variable that is read, with its type, default and bounds.

No other module reads the environment. Knows nothing of Django or the database: what administrators
change while servers run is in :mod:`realtime.auth.policy`.
"""

from realtime.config.files import data_directory, read_or_create_secret
from realtime.config.models import (
    ENV_PREFIX,
    JWT_PREFIX,
    WEBSOCKET_PREFIX,
    Algorithm,
    JwtConfig,
    SiteConfig,
    StreamingConfig,
    WebSocketConfig,
)
from realtime.config.reading import (
    VARIABLES,
    ConfigurationError,
    exit_if_misconfigured,
    get_streaming_config,
    read_config,
    read_site_config,
)

__all__ = [
    "ENV_PREFIX",
    "JWT_PREFIX",
    "VARIABLES",
    "WEBSOCKET_PREFIX",
    "Algorithm",
    "ConfigurationError",
    "JwtConfig",
    "SiteConfig",
    "StreamingConfig",
    "WebSocketConfig",
    "data_directory",
    "exit_if_misconfigured",
    "get_streaming_config",
    "read_config",
    "read_or_create_secret",
    "read_site_config",
]
