"""The extension: what an application has one of, and what it puts into the application."""

import logging
from collections.abc import Callable
from typing import Final, cast

from flask import Blueprint, Flask, Response, current_app, has_app_context, request, url_for
from markupsafe import Markup

from perkamo.errors import PerkamoConfigurationError, PerkamoError
from perkamo.integrations.answers import Answer, error_answer
from perkamo.integrations.browser import (
    CONFIG_PATH,
    DEFAULT_PREFIX,
    STREAM_TOKEN_PATH,
    TOKEN_PATH,
    Purpose,
    check_prefix,
    checked_user_id,
    script_tags,
)
from perkamo.integrations.once_per_process import OncePerProcess
from perkamo.integrations.settings import Settings, read_settings
from perkamo.integrations.webhooks import read_delivery, refuse_coroutine
from perkamo.outbox.sync_outbox import SyncOutbox
from perkamo.sync_client import PerkamoClient
from perkamo.webhooks import MAX_WEBHOOK_BYTES, DeliveryLog, WebhookDelivery, deduplicate

_KEY: Final = "perkamo"
_BLUEPRINT: Final = "perkamo_browser"
_LOGGER: Final = logging.getLogger("perkamo.flask")


class _State:
    """What one application has one of in each process, made at first use."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self.settings: OncePerProcess[Settings] = OncePerProcess(self._read_settings)
        self.client: OncePerProcess[PerkamoClient] = OncePerProcess(lambda: self.settings.get().make_client())
        self.outbox: OncePerProcess[SyncOutbox] = OncePerProcess(lambda: self.settings.get().make_outbox())

    def _read_settings(self) -> Settings:
        given = self._app.config.get_namespace("PERKAMO_", lowercase=False)
        return read_settings(given, "PERKAMO_{}")


class Perkamo:
    """The extension.

    The configuration has ``PERKAMO_SECRET_KEY``, ``PERKAMO_BASE_URL``, ``PERKAMO_OUTBOX`` and so on; the environment
    gives what it leaves out. It is read at the first use.

    A ``PerkamoError`` that a view did not catch is answered: 422 for bad input, 404 and 409 as Perkamo answered them,
    503 with Retry-After where the same call may succeed later, 500 for a wrong set-up, else 502. The error itself goes
    to the log ``perkamo.flask``.
    """

    def __init__(self, app: Flask | None = None) -> None:
        """Make the extension.

        Args:
            app: The application; none where ``init_app`` is called later.
        """
        self._app = app
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the extension into an application; any number of them may have it.

        Args:
            app: The application.
        """
        app.extensions[_KEY] = _State(app)
        app.register_error_handler(PerkamoError, _respond_to_error)

    @property
    def client(self) -> PerkamoClient:
        """The application's client, one for each process, in any thread.

        Raises:
            PerkamoConfigurationError: A setting can't work, or there is no application here.
        """
        return self._state().client.get()

    @property
    def outbox(self) -> SyncOutbox:
        """The application's outbox, in the directory ``PERKAMO_OUTBOX``. Put events after the commit.

        ``perkamo outbox relay DIR``, as a service of its own, delivers what waits in it.

        Raises:
            PerkamoConfigurationError: There is no directory for it, or no application here.
            PerkamoOutboxStorageError: The directory can't keep a promise.
        """
        return self._state().outbox.get()

    def browser_blueprint(
        self, get_user_id: Callable[[], str | None], *, url_prefix: str = DEFAULT_PREFIX
    ) -> Blueprint:
        """Return ``POST …/token``, ``POST …/stream-token`` and ``GET …/browser/config``.

        They are as the official Symfony bundle has them (published). Answers with a token are never stored; nobody who
        is logged in is 401; Perkamo being out of reach is 503.

        Args:
            get_user_id: Says who is logged in, None for nobody. It must take the id from the session, never from what
                the browser asks for.
            url_prefix: Where the routes are.

        Raises:
            ValueError: The prefix does not begin with a slash, or ends with one.
        """
        blueprint = Blueprint(_BLUEPRINT, __name__, url_prefix=check_prefix(url_prefix))

        def issue(purpose: Purpose) -> Response:
            state = self._state()
            user = checked_user_id(get_user_id())
            return _respond(state.settings.get().browser_sdk().issue(state.client.get(), user, purpose))

        def token() -> Response:
            return issue("browser")

        def stream_token() -> Response:
            return issue("stream")

        def config() -> Response:
            return _respond(Answer(200, self._browser_config()))

        blueprint.add_url_rule(TOKEN_PATH, view_func=token, methods=["POST"])
        blueprint.add_url_rule(STREAM_TOKEN_PATH, view_func=stream_token, methods=["POST"])
        blueprint.add_url_rule(CONFIG_PATH, view_func=config)
        return blueprint

    def script_tags(self, nonce: str | None = None) -> Markup:
        """Return the HTML that loads the browser SDK and sets it up, for a page's head.

        In the page, ``Perkamo.createClient()`` makes a client of ``@perkamo/browser`` that takes its tokens from
        ``browser_blueprint``.

        Args:
            nonce: The nonce of the page's Content-Security-Policy, for both scripts.

        Raises:
            BuildError: The application has no ``browser_blueprint``.
            PerkamoConfigurationError: There is no browser key.
        """
        return Markup(script_tags(self._browser_config(), nonce))  # noqa: S704 - everything in it is escaped

    def webhook(self, handle: Callable[[WebhookDelivery], object], log: DeliveryLog) -> Callable[..., Response]:
        """Return a view that hands each delivery to your function once, although deliveries repeat.

            app.add_url_rule("/hooks/perkamo", view_func=perkamo.webhook(on_delivery, log), methods=["POST"])

        **Deliveries are unsigned** (published): whoever has to be let in knows ``PERKAMO_WEBHOOK_SECRET``, and sends it
        in the header ``PERKAMO_WEBHOOK_HEADER``, or as ``<secret>`` in the path; all others get 404. Mind that
        servers and proxies log paths. Take a delivery as a hint, and read the customer again. A delivery whose handling
        raised is handled again when it is repeated.

        Args:
            handle: Your function. Its answer is not looked at; it has 5 seconds (published).
            log: Where the ids of handled deliveries are kept; all workers share a ``SqliteDeliveryLog``.

        Raises:
            PerkamoConfigurationError: Your function is an ``async def``.
        """
        refuse_coroutine(handle)

        def perkamo_webhook(secret: str | None = None) -> Response:
            delivery = self._read_delivery(secret)
            if isinstance(delivery, Answer):
                return _respond(delivery)
            with deduplicate(delivery, log) as is_new:
                if is_new:
                    handle(delivery)
            return _respond(Answer(200, {"new": is_new}))

        return perkamo_webhook

    def _read_delivery(self, in_path: str | None) -> WebhookDelivery | Answer:
        settings = self._state().settings.get()
        in_header = request.headers.get(settings.webhook_header)
        given = in_header.encode("latin-1", "replace") if in_path is None and in_header is not None else in_path
        body = request.stream.read(MAX_WEBHOOK_BYTES + 1)
        return read_delivery(request.headers, body, secret=settings.webhook_secret, given=given)

    def _browser_config(self) -> dict[str, str]:
        state = self._state()
        at = url_for(f"{_BLUEPRINT}.config")
        return state.settings.get().browser_sdk().config(state.client.get().base_url, at.removesuffix(CONFIG_PATH))

    def _state(self) -> _State:
        app = current_app if has_app_context() else self._app
        state = None if app is None else cast("_State | None", app.extensions.get(_KEY))
        if state is None:
            raise PerkamoConfigurationError(
                "There is no application with Perkamo here: call perkamo.init_app(app), and use perkamo.client within "
                "'with app.app_context():'. Nothing was sent."
            )
        return state


def _respond(answer: Answer) -> Response:
    return Response(answer.to_bytes(), answer.status, dict(answer.headers), content_type="application/json")


def _respond_to_error(error: PerkamoError) -> Response:
    return _respond(error_answer(error, _LOGGER))
