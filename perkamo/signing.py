"""Request signatures: five lines of truth.

Published with the official clients: the signature binds the timestamp, the method, the path and the raw body bytes to
the server key.
"""

import hmac
from hashlib import sha256
from typing import Final

API_KEY_HEADER: Final = "x-perkamo-api-key"
TIMESTAMP_HEADER: Final = "x-perkamo-timestamp"
SIGNATURE_HEADER: Final = "x-perkamo-signature"


def sign(api_key: str, timestamp: str, method: str, path: str, body: bytes) -> str:
    """Sign one request as the Perkamo API expects it (published).

    Args:
        api_key: The server key, as text; its UTF-8 bytes are the HMAC key.
        timestamp: Whole Unix seconds as decimal text, the same text that travels in ``x-perkamo-timestamp``.
        method: The HTTP method, in any case.
        path: The path from ``/v1/`` on, without the base URL's own prefix and without a query.
        body: The exact bytes that are sent; ``b""`` when there is no body.

    Returns:
        The value of ``x-perkamo-signature``: ``v1=`` and 64 lowercase hexadecimal digits.
    """
    message = f"v1.{timestamp}.{method.upper()}.{path}.{sha256(body).hexdigest()}"
    return "v1=" + hmac.digest(api_key.encode(), message.encode(), "sha256").hex()
