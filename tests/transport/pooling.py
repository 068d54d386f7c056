"""What the tests of the pool and of exchanges share."""

from tests.faults.rawserver import Connection, RawServer


def used(server: RawServer) -> list[int]:
    """Return on which connection each request came."""
    return [request.connection for request in server.requests]


def stall_after_request(connection: Connection) -> None:
    """Read the request and say nothing."""
    connection.read_request()
    connection.stall()


def stall_at_once(connection: Connection) -> None:
    """Take nothing of the request."""
    connection.server.stopping.wait(30)
