"""``python -m perkamo token``: get a short-lived token for one customer's browser or stream."""

import os
from argparse import ArgumentTypeError, Namespace
from functools import partial
from typing import TYPE_CHECKING, Final

from perkamo.cli.output import print_json, print_lines, print_stderr, printable
from perkamo.cli.running import FAILED, add_command, print_error, run_call
from perkamo.client import AsyncPerkamoClient
from perkamo.models import BrowserToken
from perkamo.request.endpoints import MAX_TTL_SECONDS

if TYPE_CHECKING:
    from perkamo.cli.main import SubParsers

BROWSER_KEY_VARIABLE: Final = "PERKAMO_BROWSER_KEY"

_EXAMPLE = """\
perkamo token customer_123 --ttl 600
token=$(perkamo token customer_123 --stream)"""


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command's options."""
    parser = add_command(
        subparsers,
        "token",
        "get a short-lived token for one customer's browser",
        example=_EXAMPLE,
        environment=(f"{BROWSER_KEY_VARIABLE}  the public browser key, pk_…",),
    )
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
    browser_key = os.environ.get(BROWSER_KEY_VARIABLE, "").strip()
    if not browser_key:
        return print_error("token", f"set {BROWSER_KEY_VARIABLE} to the public browser key, pk_….", FAILED)
    return run_call("token", partial(_token, args, browser_key))


async def _token(args: Namespace, browser_key: str, client: AsyncPerkamoClient) -> None:
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
    print_stderr(f"Good for {token.expires_in} s, until {token.expires_at:%Y-%m-%d %H:%M:%S} UTC.")


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ArgumentTypeError("it is a whole number of seconds")
    return int(text)
