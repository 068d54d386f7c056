"""``python -m perkamo sandbox``: a small Perkamo until Ctrl-C."""

import signal
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final

from perkamo.cli import stdio
from perkamo.cli.exit_codes import DONE, FAILED
from perkamo.cli.help import explain
from perkamo.cli.output import print_json, print_lines
from perkamo.cli.running import explained, print_error
from perkamo.sandbox.blueprint import ProgramError
from perkamo.sandbox.ledger import LedgerCleared
from perkamo.sandbox.process import SandboxError
from perkamo.sandbox.sandbox import Sandbox
from perkamo.sandbox.webhooks import target

if TYPE_CHECKING:
    from types import FrameType

DEFAULT_PORT: Final = 4001
"""Published, in an older version: the documented local default of the API server."""

MAX_PORT: Final = 65_535


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    explain(
        parser,
        example="perkamo sandbox\n"
        "perkamo sandbox --port 0 --program program.json\n"
        "perkamo sandbox --webhook http://127.0.0.1:8000/hooks/perkamo",
        exit_codes="0  Ctrl-C or SIGTERM\n1  failed: the port is in use, or the program is wrong\n2  wrong usage",
    )
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; any but loopback opens it to the network"
    )
    parser.add_argument("--program", type=Path, metavar="FILE", help="a program as JSON (default: a shop's)")
    parser.add_argument(
        "--webhook",
        type=_webhook,
        metavar="URL",
        help="post a delivery to this http URL of this machine after each applied event",
    )
    parser.add_argument("--json", action="store_true", help="print address and keys as one JSON document, once it runs")


def run(args: Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    return explained("sandbox", partial(_run, args), runs_until_stopped=True)


def _run(args: Namespace) -> int:
    file: Path | None = args.program
    stop = Event()

    def end(_: int, __: "FrameType | None") -> None:
        stop.set()

    try:
        program = None if file is None else file.read_bytes()
    except OSError as error:
        return print_error("sandbox", f"cannot read {file}: {error.strerror}", FAILED)
    before = [(number, signal.signal(number, end)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with Sandbox(program, host=args.host, port=args.port) as sandbox:
            if args.webhook is not None:
                _send_webhooks(sandbox, args.webhook)
            _greet(sandbox, as_json=args.json)
            while not stop.wait(timeout=1):  # a wait without a limit would not notice Ctrl-C on Windows
                pass
            sandbox.faults.clear()  # armed on the page and still waiting: no reason to fail
    except (ProgramError, SandboxError) as error:
        return print_error("sandbox", str(error), FAILED)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if not args.json:
        print_lines("Stopped.")
    return DONE


def _send_webhooks(sandbox: Sandbox, url: str) -> None:
    """Deliver to a URL, also after a reset on the page."""

    def go_on(change: object) -> None:
        if isinstance(change, LedgerCleared):
            sandbox.webhooks.send_to(url)

    sandbox.webhooks.send_to(url)
    sandbox.listen(go_on)


def _greet(sandbox: Sandbox, *, as_json: bool) -> None:
    if as_json:
        keys = {"server_key": sandbox.api_key, "browser_key": sandbox.browser_key}
        print_json({"base_url": sandbox.base_url, **keys})
    else:
        print_lines(*_greeting(sandbox).splitlines(), "")
    stdio.flush()


def _greeting(sandbox: Sandbox) -> str:
    url, key = sandbox.base_url, sandbox.api_key
    return f"""Perkamo sandbox on {url}   (Ctrl-C stops it; everything is kept in memory)

  server key   {key}
  browser key  {sandbox.browser_key}

Open {url}/ in a browser to watch it, and to make it fail.

Point a client at it:

  export PERKAMO_BASE_URL={url} PERKAMO_SECRET_KEY={key}

Look at it (POST requests are signed, so leave those to a client):

  curl -H 'x-perkamo-api-key: {key}' {url}/v1/customer/customer_123
  curl {url}/_sandbox/state        what happened so far
  curl {url}/_sandbox/requests     every request, with notes on what was odd
  curl {url}/_sandbox/fidelity     what is published of its behaviour and what is assumed
"""


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_PORT:
        raise ArgumentTypeError(f"a port is a number from 0 to {MAX_PORT}")
    return int(text)


def _webhook(text: str) -> str:
    try:
        target(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text
