"""The app's HTTP paths."""

from django.urls import path

from realtime import views
from realtime.http import operators as operator_views

urlpatterns = [
    path("api/openapi.json", views.openapi, name="openapi"),
    path("api/stats", operator_views.stats, name="stats"),
    path("api/token", views.connection_token, name="connection-token"),
    path("healthz", views.healthz, name="healthz"),
    path("metrics", operator_views.metrics, name="metrics"),
    path("readyz", views.readyz, name="readyz"),
    path("", views.dashboard, name="index"),
]
