"""Certificates that the tests make, servers that have them, and transports that trust them."""

import ssl
from typing import Any

import trustme

from perkamo.transport.transport import Transport
from tests.faults.rawserver import Connection, RawServer, Script

CA = trustme.CA()


def client_context() -> ssl.SSLContext:
    """Make a TLS context that trusts the tests' own CA."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


def server_context(
    *names: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, ca: trustme.CA = CA
) -> ssl.SSLContext:
    """Make a server's TLS context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    ca.issue_cert(*names).configure_cert(context)
    return context


def trusting(**options: Any) -> Transport:
    """Make a transport that trusts the tests' own CA."""
    return Transport(ssl_context=client_context(), **options)


def secured(
    script: Script, *names: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, ca: trustme.CA = CA
) -> Script:
    """Make a script that speaks TLS with a certificate for these names."""
    context = server_context(*names, version=version, ca=ca)

    def wrapped(connection: Connection) -> None:
        with context.wrap_socket(connection.socket, server_side=True) as secure:
            connection.socket = secure
            script(connection)

    return wrapped


def https(server: RawServer) -> str:
    """Return where the server is, by its name."""
    return server.base_url.replace("http://127.0.0.1", "https://localhost")
