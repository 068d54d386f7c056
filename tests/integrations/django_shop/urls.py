"""The shop's addresses."""

from django.contrib import admin
from django.http import HttpRequest
from django.urls import include, path

from perkamo.integrations.django import browser_urls, webhook
from tests.integrations.django_shop import views


def logged_in(request: HttpRequest) -> str | None:
    """Stand in for the application's session."""
    return request.headers.get("x-user")


urlpatterns = [
    path("orders/<order_id>/paid", views.paid),
    path("orders/<order_id>/paid-without-outbox", views.paid_without_outbox),
    path("orders/<order_id>/paid-async", views.paid_async),
    path("orders/<order_id>/paid-by-task", views.paid_by_task),
    path("both", views.both_clients),
    path("page", views.page),
    path("api/perkamo/", include(browser_urls(logged_in))),
    path("session/perkamo/", include(browser_urls())),
    path("hooks/perkamo", webhook(views.on_delivery)),
    path("hooks/<str:secret>/perkamo", webhook(views.on_delivery)),
    path("admin/", admin.site.urls),
]
