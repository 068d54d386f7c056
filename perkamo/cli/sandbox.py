"""``python -m perkamo sandbox``: a small Perkamo until Ctrl-C."""

import re
import signal
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final

from perkamo.cli import stdio
from perkamo.cli.checking.findings import saved_dialect
from perkamo.cli.exit_codes import DONE, FAILED, WRONG_USAGE
from perkamo.cli.help import explain
from perkamo.cli.output import print_json, print_lines
from perkamo.cli.recorded_lines import RecordedLines
from perkamo.cli.running import explained, print_error
from perkamo.cli.sandbox_replay import Replay, recording
from perkamo.cli.stdio import print_stderr
from perkamo.outbox.directory import holds_outbox
from perkamo.sandbox.blueprint import ProgramError
from perkamo.sandbox.dialect import DialectError
from perkamo.sandbox.ledger import LedgerCleared
from perkamo.sandbox.process import SandboxError
from perkamo.sandbox.sandbox import Sandbox
from perkamo.sandbox.webhooks import target

if TYPE_CHECKING:
    from types import FrameType

DEFAULT_PORT: Final = 4001
"""Published, in an older version: the documented local default of the API server."""

MAX_PORT: Final = 65_535
MAX_SPEED: Final = 1_000_000.0
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    explain(
        parser,
        example="perkamo sandbox\n"
        "perkamo sandbox --port 0 --program program.json\n"
        "perkamo sandbox --webhook http://127.0.0.1:8000/hooks/perkamo --webhook-header 'X-Shop-Secret: s3cret'\n"
        "perkamo sandbox --record today.jsonl --pseudonyms\n"
        "perkamo sandbox --replay today.jsonl --speed 10\n"
        "perkamo sandbox --replay /var/lib/shop/perkamo-outbox\n"
        "perkamo sandbox --like service.json\n"
        "perkamo sandbox --host 0.0.0.0 --expose     # in Compose and CI",
        exit_codes="0  Ctrl-C or SIGTERM\n1  failed: the port is in use, or a file can't be used\n2  wrong usage",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=DEFAULT_PORT,
        help="the port to listen on; 0 for a free one (default: %(default)s)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; any but loopback needs --expose")
    parser.add_argument(
        "--expose",
        action="store_true",
        help="let other machines use the API, read everything, reset the sandbox and arm faults",
    )
    parser.add_argument("--program", type=Path, metavar="FILE", help="a program as JSON (default: a shop's)")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="FILE",
        help="answer as the service did for which 'perkamo check --save' wrote this file",
    )
    parser.add_argument(
        "--webhook", metavar="URL", help="post a delivery to this http URL of this machine after each applied event"
    )
    parser.add_argument(
        "--webhook-allow",
        action="append",
        default=[],
        metavar="HOST",
        help="allow --webhook to name this host, such as a service in Compose (repeatable)",
    )
    parser.add_argument(
        "--webhook-header",
        action="append",
        default=[],
        type=_header,
        metavar="'NAME: VALUE'",
        help="a header of each delivery, such as the receiver's secret (repeatable)",
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="append every request to this file, with masked keys"
    )
    parser.add_argument(
        "--pseudonyms",
        action="store_true",
        help="with --record: replace the ids of customers and transactions",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="FILE|DIR",
        help="play a recording, a file of events as import takes it, also - or .gz, or the waiting events of an outbox"
        " in a directory",
    )
    parser.add_argument(
        "--space", metavar="NAME", help="with --replay of an outbox: the name of its Space, if it was given one"
    )
    parser.add_argument(
        "--speed",
        type=_speed,
        metavar="N",
        help="with --replay: how many times faster than recorded; 0 for no waits (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print address and keys as one JSON document once it runs")


def run(args: Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; return the exit code."""
    return explained("sandbox", partial(_run, args), runs_until_stopped=True)


def _run(args: Namespace) -> int:
    wrong = _wrong_usage(args)
    if wrong is not None:
        return print_error("sandbox", wrong, WRONG_USAGE)
    like: Path | None = args.like
    file: Path | None = args.program
    if args.replay is not None and args.replay.is_dir() and not holds_outbox(args.replay):
        return print_error("sandbox", f"{args.replay} contains no outbox", FAILED)
    try:
        program = None if file is None else file.read_bytes()
        dialect = None if like is None else saved_dialect(like.read_bytes())
    except OSError as error:
        return print_error("sandbox", f"cannot read {error.filename}: {error.strerror}", FAILED)
    except ValueError as error:
        return print_error("sandbox", f"--like {like}: {error}", FAILED)
    stop = Event()

    def end(_: int, __: "FrameType | None") -> None:
        stop.set()

    before = [(number, signal.signal(number, end)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with Sandbox(program, host=args.host, port=args.port, expose=args.expose, dialect=dialect) as sandbox:
            return _serve(sandbox, args, stop)
    except (DialectError, ProgramError, SandboxError) as error:
        return print_error("sandbox", str(error), FAILED)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _serve(sandbox: Sandbox, args: Namespace, stop: Event) -> int:
    """Serve until ``stop``; return the exit code."""
    if args.webhook is not None:
        _send_webhooks(sandbox, args)
    replay = Replay(sandbox, 1.0 if args.speed is None else args.speed, stop)
    file: Path | None = args.record
    lost: list[OSError] = []

    def failed(error: OSError) -> None:
        lost.append(error)
        print_stderr(f"perkamo sandbox: cannot write {file}: {error.strerror}. No further request is recorded.")

    try:
        source: Path | None = args.replay
        lines = None if source is None or source.is_dir() else RecordedLines(str(source))
        with recording(sandbox, file, pseudonyms=args.pseudonyms, failed=failed):
            _greet(sandbox, as_json=args.json, exposed=args.expose)
            if lines is not None:
                replay.start(lines, lambda: _tell(replay, as_json=args.json))
            elif source is not None:
                replay.start_outbox(source, args.space, lambda: _tell(replay, as_json=args.json))
            while not stop.wait(timeout=1):  # a wait without a limit would not notice Ctrl-C on Windows
                pass
            replay.join()
    except OSError as error:
        return print_error("sandbox", f"cannot use {error.filename}: {error.strerror}", FAILED)
    finally:
        sandbox.faults.clear()  # faults that were armed on the page and never fired are not a failure
    if replay.problem is not None:
        return print_error("sandbox", replay.problem, FAILED)
    if not args.json:
        print_lines("Stopped.")
    return FAILED if lost else DONE


def _tell(replay: Replay, *, as_json: bool) -> None:
    """Print what was replayed, unless the output is for a program."""
    if not as_json:
        with suppress(stdio.OutputError):  # an error in the replay's thread would reach nobody
            print_lines(replay.summary())
            stdio.flush()


def _wrong_usage(args: Namespace) -> str | None:
    """Return which options do not go together, if any."""
    if not args.expose and not _is_loopback(args.host):
        return f"--host {args.host} opens the sandbox to the network: confirm with --expose, or listen on 127.0.0.1"
    if (wrong := _wrong_recording(args)) is not None:
        return wrong
    if args.webhook is None and (args.webhook_allow or args.webhook_header):
        return "--webhook-allow and --webhook-header need --webhook URL"
    try:
        if args.webhook is not None:
            target(args.webhook, [host.lower() for host in args.webhook_allow])
    except ValueError as error:
        return f"--webhook: {error}; --webhook-allow names one"
    return None


def _wrong_recording(args: Namespace) -> str | None:
    replay: Path | None = args.replay
    record: Path | None = args.record
    if args.pseudonyms and record is None:
        return "--pseudonyms needs --record FILE"
    if replay is None and (args.speed is not None or args.space is not None):
        return "--speed and --space need --replay FILE"
    if replay is not None and record is not None and replay.resolve() == record.resolve():
        return "--record and --replay name one file, which would never end: name two"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _send_webhooks(sandbox: Sandbox, args: Namespace) -> None:
    """Deliver to a URL, also after a reset on the page."""

    def send() -> None:
        sandbox.webhooks.send_to(args.webhook, headers=dict(args.webhook_header), hosts=args.webhook_allow)

    def continue_after(change: object) -> None:
        if isinstance(change, LedgerCleared):
            send()

    send()
    sandbox.listen(continue_after)


def _greet(sandbox: Sandbox, *, as_json: bool, exposed: bool) -> None:
    if as_json:
        keys = {"server_key": sandbox.api_key, "browser_key": sandbox.browser_key}
        print_json({"base_url": sandbox.base_url, **keys})
    else:
        print_lines(*_greeting(sandbox, exposed=exposed).splitlines(), "")
    stdio.flush()


def _greeting(sandbox: Sandbox, *, exposed: bool) -> str:
    url, key = sandbox.base_url, sandbox.api_key
    return f"""Perkamo sandbox on {url}   (Ctrl-C stops it; everything is kept in memory)
{_warning(url) if exposed else ""}
  server key   {key}
  browser key  {sandbox.browser_key}

Both are the same at each start. Open {url}/ in a browser to watch it, and to make it fail.

Point a client at it:

  export PERKAMO_BASE_URL={url} PERKAMO_SECRET_KEY={key}
  export PERKAMO_BROWSER_KEY={sandbox.browser_key}

Look at it (POST requests are signed, so leave those to a client):

  curl -H 'x-perkamo-api-key: {key}' {url}/v1/customer/customer_123
  curl {url}/_sandbox/state        what happened so far
  curl {url}/_sandbox/requests     every request, with notes on what was odd
  curl {url}/_sandbox/fidelity     what is published of its behaviour and what is assumed
"""


def _warning(url: str) -> str:
    port = url.rpartition(":")[2]
    return f"""
EXPOSED: every machine that reaches port {port} of this one can use the API with the keys below, read all that
came, reset the sandbox and arm faults. Use it in a network of your own, and with test data only.
From there it is http://NAME:{port}, where NAME is this machine's, or the service's in Compose; /healthz answers probes.
"""


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_PORT:
        raise ArgumentTypeError(f"a port must be a number from 0 to {MAX_PORT}")
    return int(text)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = -1.0
    if not 0 <= speed <= MAX_SPEED:
        raise ArgumentTypeError(f"a speed must be a number from 0 to {MAX_SPEED:g}")
    return speed


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or _HEADER_NAME.fullmatch(name) is None or not value.strip().isprintable():
        raise ArgumentTypeError("a header is written as 'NAME: VALUE'")
    return name, value.strip()
