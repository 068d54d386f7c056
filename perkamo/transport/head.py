"""The head of an answer."""

from collections.abc import Mapping

from perkamo.transport.request import RawHeaders

HTTP_1_1 = b"HTTP/1.1"


class Head:
    """The head of an answer. Parts that are rarely needed are built when they are asked for.

    Args:
        status: The status code.
        reason: The reason phrase.
        lines: The header lines, each with its line end, as ``NAME: VALUE``; or names and values.
        fields: Names in lower case and values, if they are known already.
        http_version: Such as ``b"HTTP/1.1"``.

    Attributes:
        status: The status code.
        reason: The reason phrase.
        http_version: Such as ``b"HTTP/1.1"``.
        fields: Names in lower case, and values; the values of a repeated name are joined by a comma.
    """

    __slots__ = ("_lines", "fields", "http_version", "reason", "status")

    def __init__(
        self,
        status: int,
        reason: bytes,
        lines: bytes | RawHeaders,
        fields: Mapping[str, str] | None = None,
        http_version: bytes = HTTP_1_1,
    ) -> None:
        self.status: int = status
        self.reason: bytes = reason
        self.http_version: bytes = http_version
        self._lines = lines
        self.fields: Mapping[str, str] = joined(self.headers) if fields is None else fields

    @property
    def headers(self) -> RawHeaders:
        """Names as they were sent, and values."""
        if isinstance(self._lines, bytes):
            pairs = (line.partition(b": ") for line in self._lines.split(b"\r\n")[:-1])
            return [(name, value) for name, _, value in pairs]
        return self._lines


def joined(headers: RawHeaders) -> dict[str, str]:
    """Return names in lower case and values; the values of a repeated name are joined by a comma."""
    fields: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields
