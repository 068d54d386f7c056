"""``{% load perkamo %}``."""

from django import template
from django.utils.safestring import SafeString

from perkamo.integrations.django.browser import browser_script

register: template.Library = template.Library()


@register.simple_tag
def perkamo_script(nonce: str | None = None) -> SafeString:
    """Load the browser SDK and set it up: ``{% perkamo_script %}``, or with ``nonce=request.csp_nonce``."""
    return browser_script(nonce)
