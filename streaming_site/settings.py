"""Django's settings, all read from the environment; docs/configuration.md lists the variables.

The defaults run on a fresh machine: SQLite, a generated secret and an embedded Valkey, all in
the data directory.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import dj_database_url

from realtime.cluster.embedded import data_directory, read_or_create_secret
from realtime.cluster.servers import layer_hosts
from realtime.config import ConfigurationError, get_streaming_config, jwt_is_configured
from realtime.monitoring.tracing import check_installed as check_tracing

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = data_directory(BASE_DIR)


def _flag(name: str, default: bool = False) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value in {"", "0", "false", "no", "off"}:
        return default if value == "" else False
    if value in {"1", "true", "yes", "on"}:
        return True
    raise ConfigurationError(f"{name}={value!r}: not a boolean (allowed: true or false)")


def _chart_directory() -> Path:
    """Return where the package that brings Chart.js has it."""
    package = importlib.util.find_spec("unfold")
    if package is None or package.origin is None:
        sys.exit("error: django-unfold is not installed: pip install -r requirements.txt")
    return Path(package.origin).parent / "static/unfold/js/chart"


def _list(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


try:
    STREAMING = get_streaming_config()
    if jwt_is_configured():
        from realtime.auth.jwt import configured_verifier

        configured_verifier()
    LAYER_HOSTS = layer_hosts(DATA_DIR)
    DEBUG = _flag("DJANGO_DEBUG")
    TLS = _flag("DJANGO_TLS")
    ACCESS_LOG = _flag("STREAMING_ACCESS_LOG", default=True)
    TRACING = _flag("STREAMING_TRACING")
    if TRACING:
        check_tracing()
except ConfigurationError as error:
    # One line for the person who starts the server, not a traceback through the settings.
    sys.exit(f"error: {error}")

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or read_or_create_secret(DATA_DIR)
# Any host is served until an operator names his: the WebSocket API checks origins, and a first
# run must answer under whatever name the machine has. `check --deploy` asks for the names.
ALLOWED_HOSTS = _list("DJANGO_ALLOWED_HOSTS", "*")
CSRF_TRUSTED_ORIGINS = _list("DJANGO_CSRF_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "realtime",
]
# Before daphne, so that `runserver` is this project's.
INSTALLED_APPS.insert(0, INSTALLED_APPS.pop())

MIDDLEWARE = [
    "realtime.http.middleware.any_host_for_probes",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "streaming_site.urls"
ASGI_APPLICATION = "streaming_site.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": dj_database_url.config(
        default=f"sqlite:///{DATA_DIR / 'db.sqlite3'}", conn_max_age=0, conn_health_checks=True
    )
}
_engine = DATABASES["default"]["ENGINE"]
_options: dict[str, Any] = DATABASES["default"].setdefault("OPTIONS", {})
if _engine.endswith("postgresql"):
    # A few connections for all threads of a process. Seconds: a process without one must find out
    # before realtime.database gives up, and the pool must not wait long once the server is back.
    _options.setdefault(
        "pool", {"min_size": 1, "max_size": 10, "timeout": 4, "reconnect_timeout": 5}
    )
    # A server that has gone without a word is noticed (libpq's connection parameters).
    for _name, _value in (
        ("connect_timeout", 3),
        ("tcp_user_timeout", 5000),
        ("keepalives_idle", 15),
        ("keepalives_interval", 5),
    ):
        _options.setdefault(_name, _value)
elif _engine.endswith("sqlite3"):
    # Readers do not wait for a writer, and a second writer waits for the first instead of failing.
    _options.update(
        timeout=5,
        transaction_mode="IMMEDIATE",
        init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    )

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": LAYER_HOSTS, "prefix": "realtime"},
    }
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "/static/"
# Chart.js, of an installed package: none of its code is in this repository.
STATICFILES_DIRS = [("chartjs", _chart_directory())]
# Static files are served from where each app has them: nothing to collect before a start. Where
# a proxy serves them, `collectstatic` puts them here.
STATIC_ROOT = DATA_DIR / "static"
STATIC_ROOT.mkdir(exist_ok=True)
# WhiteNoise's responses are read in a thread under ASGI, which suits static files.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

# With DJANGO_TLS=true a proxy in front ends TLS; it must set X-Forwarded-Proto itself.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TLS else None
SECURE_SSL_REDIRECT = TLS
SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]
SECURE_HSTS_SECONDS = 31_536_000 if TLS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = TLS
SECURE_HSTS_PRELOAD = TLS
SESSION_COOKIE_SECURE = TLS
CSRF_COOKIE_SECURE = TLS
X_FRAME_OPTIONS = "DENY"

# Notifications on alerts, and Django's own mails.
EMAIL_HOST = os.environ.get("DJANGO_EMAIL_HOST") or "localhost"
EMAIL_HOST_USER = os.environ.get("DJANGO_EMAIL_USER", "")
EMAIL_HOST_PASSWORD = os.environ.get("DJANGO_EMAIL_PASSWORD", "")
EMAIL_SECURITY = os.environ.get("DJANGO_EMAIL_SECURITY") or "none"
if EMAIL_SECURITY not in ("none", "starttls", "tls"):
    sys.exit(f"error: DJANGO_EMAIL_SECURITY={EMAIL_SECURITY!r}: must be none, starttls or tls")
EMAIL_USE_TLS, EMAIL_USE_SSL = EMAIL_SECURITY == "starttls", EMAIL_SECURITY == "tls"
_port = (
    os.environ.get("DJANGO_EMAIL_PORT")
    or {"none": "25", "starttls": "587", "tls": "465"}[EMAIL_SECURITY]
)
if not _port.isdecimal() or not 0 < int(_port) < 65_536:
    sys.exit(f"error: DJANGO_EMAIL_PORT={_port!r}: must be a port, 1 to 65535")
EMAIL_PORT = int(_port)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = os.environ.get("DJANGO_EMAIL_FROM") or "streaming@localhost"

# The audit log: "-" is standard error. A file may be moved away while servers run.
AUDIT_LOG = os.environ.get("STREAMING_AUDIT_LOG") or str(DATA_DIR / "audit.log")
if AUDIT_LOG != "-" and not os.access(Path(AUDIT_LOG).parent, os.W_OK):
    sys.exit(f"error: STREAMING_AUDIT_LOG={AUDIT_LOG!r}: its directory cannot be written to")

LOG_FORMAT = os.environ.get("STREAMING_LOG_FORMAT") or "line"
if LOG_FORMAT not in ("line", "json"):
    sys.exit(f"error: STREAMING_LOG_FORMAT={LOG_FORMAT!r}: must be line or json")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "{asctime}{levelname}{name}{process}{message}",
            "style": "{",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        },
        "message": {"format": "{message}", "style": "{"},
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT},
        "audit": {"class": "logging.StreamHandler", "formatter": "message"}
        if AUDIT_LOG == "-"
        else {
            "class": "logging.handlers.WatchedFileHandler",
            "formatter": "message",
            "filename": AUDIT_LOG,
            "delay": True,
        },
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "realtime": {"level": "INFO"},
        "realtime.access": {"level": "INFO" if ACCESS_LOG else "WARNING"},
        "realtime.audit": {"handlers": ["audit"], "propagate": False},
        # It repeats what realtime.database and readiness say.
        "psycopg.pool": {"level": "ERROR"},
        "django": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
