"""What a shop's own server does for the browser SDK: tokens, its configuration, its script tag. Without any framework.

Paths, shapes and defaults are those of the official Symfony bundle 0.8.0 (published).
"""

import json
import re
from collections.abc import Mapping
from html import escape
from typing import Final, Literal, TypeAlias

from attrs import frozen

from perkamo.client import AsyncPerkamoClient
from perkamo.errors import PerkamoConfigurationError
from perkamo.integrations.answers import NO_STORE, Answer, problem
from perkamo.models import BrowserToken
from perkamo.request.credentials import DEFAULT_BASE_URL
from perkamo.sync_client import PerkamoClient

Purpose: TypeAlias = Literal["browser", "stream"]

DEFAULT_PREFIX: Final = "/api/perkamo"
TOKEN_PATH: Final = "/token"  # noqa: S105 - a path
STREAM_TOKEN_PATH: Final = "/stream-token"  # noqa: S105 - a path
CONFIG_PATH: Final = "/browser/config"
DEFAULT_TTL_SECONDS: Final = 600
DEFAULT_STREAM_TTL_SECONDS: Final = 120
DEFAULT_BUNDLE_VERSION: Final = "0.7.0"
_BUNDLE_PATH: Final = "https://cdn.jsdelivr.net/npm/@perkamo/browser@{version}/dist/perkamo-browser.global.min.js"
_MAX_TTL_SECONDS: Final = 1800
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.-]+)?")
_NOBODY: Final = problem(401, "Nobody is logged in.", {"www-authenticate": "Bearer"})
_UNSAFE_IN_HTML: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}

_SCRIPT: Final = """\
<script src="{path}" defer{nonce}></script>
<script{nonce}>
window.Perkamo = (function (config) {{
  function ask(endpoint) {{
    return fetch(endpoint, {{method: "POST", credentials: "include"}}).then(function (answer) {{
      if (!answer.ok) throw new Error("No Perkamo token: status " + answer.status);
      return answer.json();
    }}).then(function (issued) {{ return issued.token; }});
  }}
  return {{
    config: config,
    createClient: function (options) {{
      if (!window.PerkamoBrowser) throw new Error("The Perkamo browser SDK has not loaded yet.");
      var mine = {{
        getToken: function () {{ return ask(config.tokenEndpoint); }},
        getStreamToken: function () {{ return ask(config.streamTokenEndpoint); }}
      }};
      if (config.baseUrl) mine.baseUrl = config.baseUrl;
      return window.PerkamoBrowser.createPerkamoBrowserClient(Object.assign(mine, options || {{}}));
    }}
  }};
}})({config});
</script>"""


@frozen
class BrowserSdk:
    """How an application serves the browser SDK.

    Args:
        browser_key: The Space's public browser key, ``pk_…``.
        ttl_seconds: For how long a browser token is good, 1 to 1800; the service's own default when None.
        stream_ttl_seconds: The same for a stream token.
        bundle_version: The exact version of the npm package ``@perkamo/browser``.
        bundle_path: Where its script is; on jsDelivr when None.

    Raises:
        PerkamoConfigurationError: A value can't work.
    """

    browser_key: str
    ttl_seconds: int | None = DEFAULT_TTL_SECONDS
    stream_ttl_seconds: int | None = DEFAULT_STREAM_TTL_SECONDS
    bundle_version: str = DEFAULT_BUNDLE_VERSION
    bundle_path: str | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what can't work where it was written, and not when the first customer comes."""
        for seconds in (self.ttl_seconds, self.stream_ttl_seconds):
            if seconds is not None and not 1 <= seconds <= _MAX_TTL_SECONDS:
                raise PerkamoConfigurationError(f"A token's time to live is 1 to {_MAX_TTL_SECONDS} seconds, or None.")
        if not _VERSION.fullmatch(self.bundle_version):
            raise PerkamoConfigurationError("bundle_version must be an exact version, such as '0.7.0'.")
        if self.bundle_path is not None and not self.bundle_path.strip():
            raise PerkamoConfigurationError("bundle_path must not be blank.")

    def config(self, base_url: str, prefix: str) -> dict[str, str]:
        """Return what the browser SDK needs to know; none of it is secret.

        Args:
            base_url: Where the API is, which is left out where it is the hosted one.
            prefix: The path at which the token routes are, as browsers see it.
        """
        return {
            **({} if base_url == DEFAULT_BASE_URL else {"baseUrl": base_url}),
            "browserBundleVersion": self.bundle_version,
            "browserBundlePath": self.bundle_path or _BUNDLE_PATH.format(version=self.bundle_version),
            "tokenEndpoint": f"{prefix}{TOKEN_PATH}",
            "streamTokenEndpoint": f"{prefix}{STREAM_TOKEN_PATH}",
        }

    def issue(self, client: PerkamoClient, user_id: str | None, purpose: Purpose) -> Answer:
        """Get a token for whoever is logged in.

        Args:
            client: Gets it.
            user_id: Who is logged in, None for nobody; see ``checked_user_id``.
            purpose: What it is for.

        Returns:
            The token, which no cache keeps; or 401 for nobody.

        Raises:
            PerkamoError: Perkamo gave none.
        """
        if user_id is None:
            return _NOBODY
        if purpose == "stream":
            made = client.create_stream_token(self.browser_key, user_id, ttl_seconds=self.stream_ttl_seconds)
        else:
            made = client.create_browser_token(self.browser_key, user_id, ttl_seconds=self.ttl_seconds)
        return _token_answer(made)

    async def aissue(self, client: AsyncPerkamoClient, user_id: str | None, purpose: Purpose) -> Answer:
        """Do the same as ``issue`` from asynchronous code."""
        if user_id is None:
            return _NOBODY
        if purpose == "stream":
            made = await client.create_stream_token(self.browser_key, user_id, ttl_seconds=self.stream_ttl_seconds)
        else:
            made = await client.create_browser_token(self.browser_key, user_id, ttl_seconds=self.ttl_seconds)
        return _token_answer(made)


def checked_user_id(user_id: object) -> str | None:
    """Return the id of whoever is logged in, None for nobody.

    Args:
        user_id: What the application says. A number is refused: it may be written in more than one way.

    Raises:
        PerkamoConfigurationError: It is neither text nor None.
    """
    if user_id is not None and not isinstance(user_id, str):
        raise PerkamoConfigurationError(
            f"get_user_id must return text or None, not {type(user_id).__name__}: convert the id as it is converted "
            "where events are sent. Nothing was sent."
        )
    return user_id if user_id and user_id.strip() else None


def script_tags(config: Mapping[str, str], nonce: str | None = None) -> str:
    """Return the HTML that loads the browser SDK and sets it up, for a page's head.

    In the page, ``Perkamo.createClient()`` then makes a client of ``@perkamo/browser`` whose tokens come from the
    application's own routes; ``Perkamo.config`` is the configuration.

    Args:
        config: The configuration; see ``BrowserSdk.config``.
        nonce: The nonce of the page's Content-Security-Policy, for both scripts.
    """
    text = json.dumps(dict(config))
    for character, escaped in _UNSAFE_IN_HTML.items():
        text = text.replace(character, escaped)
    attribute = "" if nonce is None else f' nonce="{escape(nonce)}"'
    return _SCRIPT.format(path=escape(config["browserBundlePath"]), nonce=attribute, config=text)


def check_prefix(prefix: str) -> str:
    """Return the path at which the routes are.

    Raises:
        ValueError: It does not begin with a slash, or ends with one.
    """
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise ValueError("prefix must begin with a slash and must not end with one")
    return prefix


def _token_answer(made: BrowserToken) -> Answer:
    issued = {
        "token": made.token,
        "token_type": made.token_type,
        "expires_at": made.expires_at.isoformat(),
        "expires_in": made.expires_in,
    }
    return Answer(200, issued, NO_STORE)
