"""The app's HTTP paths."""

from django.urls import path

from realtime import views

urlpatterns = [
    path("api/openapi.json", views.openapi, name="openapi"),
    path("api/token", views.connection_token, name="connection-token"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
    path("", views.dashboard, name="index"),
]
