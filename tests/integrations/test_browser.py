"""integrations.browser: what every framework serves to the browser SDK."""

import json
import re

import pytest

from perkamo import PerkamoConfigurationError
from perkamo.integrations.browser import BrowserSdk, checked_user_id, script_tags


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": 1801},
        {"stream_ttl_seconds": 7200},
        {"bundle_version": "latest"},
        {"bundle_version": "0.7"},
        {"bundle_path": " "},
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_where_it_is_written(wrong: dict[str, object]) -> None:
    """When the application starts; catches a 422 for the first customer, whose fault it is not."""
    with pytest.raises(PerkamoConfigurationError):
        BrowserSdk("pk_test", **wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_nothing_of_the_configuration_ends_the_script() -> None:
    """It stands within a script element; catches a way out of it through a path or an address."""
    evil = "/x</script><script>alert(1)</script>\"'&\u2028"
    config = BrowserSdk("pk_test", bundle_path=evil).config("https://x.example", evil)

    html = script_tags(config, nonce='"><b>')

    assert html.count("</script>") == 2
    assert "alert(1)</" not in html
    assert "<b>" not in html
    found = re.search(r"\}\)\((.*)\);\n</script>", html)
    assert found is not None
    assert json.loads(found[1]) == config


@pytest.mark.parametrize(("given", "user"), [(None, None), ("", None), ("  ", None), ("u", "u"), (" u", " u")])
def test_a_blank_customer_is_nobody(given: str | None, user: str | None) -> None:
    """Text is taken as it is; catches an id that is changed on its way, and a token for nobody."""
    assert checked_user_id(given) == user


@pytest.mark.parametrize("wrong", [7, 7.0, b"u", True], ids=repr)
def test_an_id_that_is_not_text_is_refused(wrong: object) -> None:
    """A number may be written in more than one way; catches a token for "7.0"."""
    with pytest.raises(PerkamoConfigurationError, match="must return text or None"):
        checked_user_id(wrong)
