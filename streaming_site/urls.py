"""The site's URLs: the admin, and what the ``realtime`` app serves."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponseRedirect
from django.templatetags.static import static
from django.urls import include, path


def favicon(request: HttpRequest) -> HttpResponseRedirect:
    """Answer browsers that ask on behalf of pages that name no icon, such as the admin's."""
    return HttpResponseRedirect(static("realtime/dashboard/icon.svg"))


urlpatterns = [
    path("admin/", admin.site.urls),
    path("favicon.ico", favicon),
    path("", include("realtime.urls")),
]
