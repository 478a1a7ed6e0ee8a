"""Django's settings, all read from the environment; docs/configuration.md lists the variables.

The defaults run on a fresh machine: SQLite, a generated secret and an embedded Valkey, all in
the data directory.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import dj_database_url
import unfold  # type: ignore[import-untyped]  # it has no types

from realtime.cluster.servers import layer_hosts, layer_prefix
from realtime.config import (
    ConfigurationError,
    data_directory,
    exit_if_misconfigured,
    get_streaming_config,
    read_or_create_secret,
    read_site_config,
)
from realtime.monitoring.tracing import check_installed as check_tracing

BASE_DIR = Path(__file__).resolve().parent.parent

with exit_if_misconfigured():
    SITE = read_site_config()
    DATA_DIR = data_directory(BASE_DIR)
    SECRET_KEY = SITE.django_secret_key.get_secret_value() or read_or_create_secret(DATA_DIR)
    LAYER_HOSTS, LAYER_PREFIX = layer_hosts(DATA_DIR), layer_prefix(DATA_DIR)
    try:
        DATABASE: dict[str, Any] = dict(
            dj_database_url.parse(
                SITE.database_url.get_secret_value() or f"sqlite:///{DATA_DIR / 'db.sqlite3'}",
                conn_health_checks=True,
            )
        )
    except ValueError:  # its text may repeat the password
        raise ConfigurationError("DATABASE_URL: not the URL of a database") from None
    if get_streaming_config().jwt is not None:
        from realtime.auth.jwt import configured_verifier

        configured_verifier()  # reads the keys
    if SITE.streaming_tracing:
        check_tracing()
    # The audit log: "-" is standard error. A file may be moved away while servers run.
    AUDIT_LOG = SITE.streaming_audit_log or str(DATA_DIR / "audit.log")
    if AUDIT_LOG != "-" and not os.access(Path(AUDIT_LOG).parent, os.W_OK):
        raise ConfigurationError(
            f"STREAMING_AUDIT_LOG={AUDIT_LOG!r}: its directory cannot be written to"
        )

DEBUG = SITE.django_debug
TLS = SITE.django_tls
TRACING = SITE.streaming_tracing
# Any host is served until an operator names his: the WebSocket API checks origins, and a first
# run must answer under whatever name the machine has. `check --deploy` asks for the names.
ALLOWED_HOSTS = SITE.django_allowed_hosts
CSRF_TRUSTED_ORIGINS = SITE.django_csrf_trusted_origins

INSTALLED_APPS = [
    "realtime",  # before staticfiles, so that `runserver` is this project's
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
]
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

_options: dict[str, Any] = DATABASE.setdefault("OPTIONS", {})
if DATABASE["ENGINE"].endswith("postgresql"):
    # A few connections for all threads of a process. Seconds: a process without one must find out
    # before realtime.database gives up, and the pool must not wait long once the server is back.
    _pool = {"min_size": 1, "max_size": 10, "timeout": 4, "reconnect_timeout": 5}
    # Parameters of libpq by which a server that has disappeared without a word is noticed.
    _limits = {"connect_timeout": 3, "tcp_user_timeout": 5000}
    _keepalives = {"keepalives_idle": 15, "keepalives_interval": 5}
    # What the URL says comes first.
    DATABASE["OPTIONS"] = {"pool": _pool, **_limits, **_keepalives, **_options}
elif DATABASE["ENGINE"].endswith("sqlite3"):
    # Readers do not wait for a writer, and a second writer waits for the first instead of failing.
    _options.update(
        timeout=5,
        transaction_mode="IMMEDIATE",
        init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    )
DATABASES = {"default": DATABASE}

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "realtime.cluster.layer.StreamLayer",
        "CONFIG": {"hosts": LAYER_HOSTS, "prefix": LAYER_PREFIX},
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

TIME_ZONE = "UTC"

STATIC_URL = "/static/"
# Chart.js, of an installed package: none of its code is in this repository.
STATICFILES_DIRS = [("chartjs", str(Path(unfold.__file__).parent / "static/unfold/js/chart"))]
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

# Notifications on alerts, and Django's own mails.
EMAIL_HOST = SITE.django_email_host
EMAIL_HOST_USER = SITE.django_email_user
EMAIL_HOST_PASSWORD = SITE.django_email_password.get_secret_value()
EMAIL_USE_TLS = SITE.django_email_security == "starttls"
EMAIL_USE_SSL = SITE.django_email_security == "tls"
EMAIL_PORT = SITE.django_email_port or (587 if EMAIL_USE_TLS else 465 if EMAIL_USE_SSL else 25)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SITE.django_email_from

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
        "stderr": {"class": "logging.StreamHandler", "formatter": SITE.streaming_log_format},
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
        "realtime.access": {"level": "INFO" if SITE.streaming_access_log else "WARNING"},
        "realtime.audit": {"handlers": ["audit"], "propagate": False},
        # It repeats what realtime.database and readiness say.
        "psycopg.pool": {"level": "ERROR"},
        "django": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
