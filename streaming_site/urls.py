"""The site's URLs: the admin, and what the ``realtime`` app serves."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("", include("realtime.urls"))]
