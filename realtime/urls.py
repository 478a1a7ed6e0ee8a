"""The app's HTTP paths."""

from django.urls import path
from django.views.generic import RedirectView

from realtime import views

urlpatterns = [
    path("api/token", views.connection_token, name="connection-token"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
    path("", RedirectView.as_view(pattern_name="admin:index"), name="index"),
]
