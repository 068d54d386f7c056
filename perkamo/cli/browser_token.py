"""``python -m perkamo token``: get a short-lived token for one customer's browser or stream."""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from perkamo.cli.exit_codes import FAILED
from perkamo.cli.help import BROWSER_KEY, BROWSER_KEY_VARIABLE
from perkamo.cli.output import print_json, print_lines
from perkamo.cli.running import add_call_options, print_error, run_call
from perkamo.cli.stdio import print_stderr
from perkamo.cli.text import printable
from perkamo.client import AsyncPerkamoClient
from perkamo.models import BrowserToken
from perkamo.request.endpoints import MAX_TTL_SECONDS

_EXAMPLE = """\
perkamo token customer_123 --ttl 600
token=$(perkamo token customer_123 --stream)"""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    add_call_options(parser, example=_EXAMPLE, environment=(BROWSER_KEY,))
    parser.add_argument("user_id", metavar="USER", help="the application's own id of the customer")
    parser.add_argument("--stream", action="store_true", help="for the customer's stream (preview)")
    parser.add_argument(
        "--ttl",
        metavar="SECONDS",
        type=_seconds,
        help=f"1 to {MAX_TTL_SECONDS} (default: the service's; 120 for a stream)",
    )


def run(args: Namespace) -> int:
    """Get the token; returns the exit code."""
    if not _browser_key():
        return print_error("token", f"set {BROWSER_KEY_VARIABLE} to the public browser key, pk_….", FAILED)
    return run_call("token", args, _token)


async def _token(args: Namespace, client: AsyncPerkamoClient) -> None:
    browser_key = _browser_key()
    ttl: int | None = args.ttl
    token: BrowserToken
    if args.stream:
        token = await client.create_stream_token(browser_key, args.user_id, ttl_seconds=120 if ttl is None else ttl)
    else:
        token = await client.create_browser_token(browser_key, args.user_id, ttl_seconds=ttl)
    if args.json:
        print_json(token.raw)
        return
    print_lines(printable(token.token))
    print_stderr(f"Valid for {token.expires_in} s, until {token.expires_at:%Y-%m-%d %H:%M:%S} UTC.")


def _browser_key() -> str:
    return os.environ.get(BROWSER_KEY_VARIABLE, "").strip()


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ArgumentTypeError("it is a whole number of seconds")
    return int(text)
