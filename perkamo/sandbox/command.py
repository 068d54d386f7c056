"""``python -m perkamo sandbox``: a small Perkamo until Ctrl-C."""

import signal
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final

from perkamo.commands.help import explain
from perkamo.sandbox.blueprint import ProgramError
from perkamo.sandbox.process import SandboxError
from perkamo.sandbox.sandbox import Sandbox

if TYPE_CHECKING:
    from types import FrameType

    from perkamo.__main__ import SubParsers

DEFAULT_PORT: Final = 4001
"""Published, in an older version: the documented local default of the API server."""

MAX_PORT: Final = 65_535


def add_parser(subparsers: "SubParsers") -> None:
    """Add the command's options."""
    parser = subparsers.add_parser("sandbox", help="run a small Perkamo on this machine until Ctrl-C")
    explain(
        parser,
        "run a small Perkamo on this machine until Ctrl-C",
        example="perkamo sandbox\nperkamo sandbox --port 0 --program program.json",
        exit_codes="0  Ctrl-C\n1  failed: the port is in use, or the program is wrong\n2  wrong usage",
    )
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; any but loopback opens it to the network"
    )
    parser.add_argument("--program", type=Path, metavar="FILE", help="a program as JSON (default: a shop's)")


def run(args: Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    host: str = args.host
    port: int = args.port
    file: Path | None = args.program
    stop = Event()

    def end(_: int, __: "FrameType | None") -> None:
        stop.set()

    before = [(number, signal.signal(number, end)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with Sandbox(None if file is None else file.read_bytes(), host=host, port=port) as sandbox:
            print(_greeting(sandbox), flush=True)
            while not stop.wait(timeout=1):  # a wait without a limit would not notice Ctrl-C on Windows
                pass
            sandbox.faults.clear()  # armed on the page and still waiting: no reason to fail
    except OSError as error:
        return _fail(f"cannot read {file}: {error.strerror}")
    except (ProgramError, SandboxError) as error:
        return _fail(str(error))
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    print("Stopped.")
    return 0


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


def _fail(message: str) -> int:
    print(f"perkamo sandbox: {message}", file=sys.stderr)
    return 1
