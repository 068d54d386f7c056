"""The views from which a browser gets its tokens, and the script tag for pages."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from django.views.decorators.csrf import csrf_exempt

from perkamo.errors import PerkamoError
from perkamo.integrations.answers import Answer
from perkamo.integrations.browser import (
    CONFIG_PATH,
    STREAM_TOKEN_PATH,
    TOKEN_PATH,
    Purpose,
    checked_user_id,
    script_tags,
)
from perkamo.integrations.django.middleware import respond, respond_to_error
from perkamo.integrations.django.process import client, settings

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

_CONFIG: Final = "perkamo_browser_config"


def logged_in_user(request: HttpRequest) -> str | None:
    """Return the primary key of whoever is logged in, as text; None for nobody."""
    user: AbstractBaseUser | None = getattr(request, "user", None)
    return str(user.pk) if user is not None and user.is_authenticated else None


def browser_urls(get_user_id: Callable[[HttpRequest], str | None] = logged_in_user) -> list[URLPattern]:
    """Return ``token``, ``stream-token`` and ``browser/config``, as the official Symfony bundle has them.

        urlpatterns = [path("api/perkamo/", include(browser_urls()))]

    Answers with a token are never stored; nobody who is logged in is 401; Perkamo being out of reach is 503. The views
    need no CSRF token: they change nothing, and no other site can read what they answer.

    Args:
        get_user_id: Says who is logged in, None for nobody; by default the primary key of ``request.user``. It must
            take the id from the session, never from what the browser asks for, and name the customer as events do.
    """
    return [
        path(TOKEN_PATH[1:], _token_view(get_user_id, "browser"), name="perkamo_browser_token"),
        path(STREAM_TOKEN_PATH[1:], _token_view(get_user_id, "stream"), name="perkamo_browser_stream_token"),
        path(CONFIG_PATH[1:], _config_view, name=_CONFIG),
    ]


def browser_script(nonce: str | None = None) -> SafeString:
    """Return the HTML that loads the browser SDK and sets it up, for a page's head.

    In a template: ``{% load perkamo %}{% perkamo_script %}``. In the page, ``Perkamo.createClient()`` makes a client of
    ``@perkamo/browser`` that takes its tokens from ``browser_urls``.

    Args:
        nonce: The nonce of the page's Content-Security-Policy, for both scripts.

    Raises:
        NoReverseMatch: The URLs have no ``browser_urls``.
        PerkamoConfigurationError: There is no browser key.
    """
    return SafeString(script_tags(_config(reverse(_CONFIG)), nonce))


def _token_view(get_user_id: Callable[[HttpRequest], str | None], purpose: Purpose) -> Callable[..., HttpResponse]:
    @csrf_exempt
    def view(request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        user = checked_user_id(get_user_id(request))
        sdk = settings.get().browser_sdk()
        return _answered(partial(sdk.issue, client, user, purpose))

    return view


def _answered(issue: Callable[[], Answer]) -> HttpResponse:
    try:
        return respond(issue())
    except PerkamoError as error:
        return respond_to_error(error)


def _config_view(request: HttpRequest) -> HttpResponse:
    if request.method not in ("GET", "HEAD"):
        return HttpResponseNotAllowed(["GET", "HEAD"])
    return respond(Answer(200, _config(request.path)))


def _config(at: str) -> dict[str, str]:
    return settings.get().browser_sdk().config(client.base_url, at.removesuffix(CONFIG_PATH))
