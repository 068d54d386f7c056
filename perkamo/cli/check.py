"""``python -m perkamo check``: compare a service with published facts and with our assumptions."""

import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from perkamo.cli.checking.caller import Answer, Caller, clock_offset
from perkamo.cli.checking.findings import Finding, Findings, dialect_of
from perkamo.cli.checking.others import ask_batches, ask_redeem, ask_tokens
from perkamo.cli.checking.reading import read_only
from perkamo.cli.checking.surroundings import Surrounding, look_around, of_answers
from perkamo.cli.checking.writing import Writer
from perkamo.cli.exit_codes import DONE, FAILED, INTERRUPTED, TERMINATED, WRONG_USAGE
from perkamo.cli.help import BASE_URL, BROWSER_KEY, BROWSER_KEY_VARIABLE, KEY, add_client_options, explain
from perkamo.cli.layout import table
from perkamo.cli.output import print_json, print_lines
from perkamo.cli.running import RefusedError, explained, run_async
from perkamo.cli.stdio import print_stderr
from perkamo.encoding.encode import JSONValue
from perkamo.errors import PerkamoConfigurationError, PerkamoValidationError
from perkamo.request import endpoints
from perkamo.request.attempt import own_client
from perkamo.request.credentials import Key, check_base_url

_LOOKS: Final = 3
"""How often the program is read to measure the time of an answer."""

_EXAMPLE: Final = """\
perkamo check
perkamo check --write test_customer_1 --save service.json"""

_PLAN: Final = """\
Of the test customer this sends:
- two traits, perkamo_check_a and perkamo_check_b
- about 40 events under fresh transaction ids perkamo_check_...: repeated, incomplete, too long, with reserved keys, of
  an event that no rule names, minutes old, wrongly signed, too large, in batches; most of them should be refused
- a redemption without a reward, and one under a transaction id that has counted
- requests for tokens and the stream, where PERKAMO_BROWSER_KEY is set
and one event of an unknown customer, perkamo_check_..."""


def add_options(parser: ArgumentParser) -> None:
    """Add the command's options."""
    explain(
        parser,
        example=_EXAMPLE,
        exit_codes=f"{DONE}    every published fact that could be checked holds\n"
        f"{FAILED}    a published fact does not hold, or the service does not answer\n{WRONG_USAGE}    wrong usage\n"
        f"{INTERRUPTED}  Ctrl-C\n{TERMINATED}  SIGTERM",
        environment=(KEY, BASE_URL, BROWSER_KEY),
    )
    parser.add_argument(
        "--write",
        metavar="CUSTOMER_ID",
        help="also send events of this test customer, after saying which; without it nothing is changed",
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="write what was found: 'perkamo sandbox --like FILE' answers as the service did",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document, for programs")
    add_client_options(parser)


def run(args: Namespace) -> int:
    """Check the service and print the findings; return the exit code."""
    return explained("check", partial(_run, args))


def _run(args: Namespace) -> int:
    customer: str | None = args.write
    if customer is not None:
        try:
            endpoints.customer(customer)
        except PerkamoValidationError as error:
            raise RefusedError(str(error)) from None
        for line in _PLAN.splitlines():
            print_stderr(line)
    surroundings, findings = run_async(partial(_ask, args, customer))
    document = _document(surroundings, findings)
    if args.save is not None:
        args.save.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    if args.json:
        print_json(document)
    else:
        print_lines(*_lines(surroundings, findings))
    holds = all(finding.found != "differs" for finding in findings if finding.fact.known == "published")
    return DONE if holds and all(one.ok is not False for one in surroundings if one.name == "connection") else FAILED


async def _ask(args: Namespace, customer: str | None) -> tuple[list[Surrounding], list[Finding]]:
    key = await Key(None)()
    base_url = check_base_url(None, allow_insecure_http=args.allow_insecure_http)
    findings = Findings(writes=customer is not None)
    surroundings = [*look_around(key, base_url)]
    answers: list[Answer] = []
    try:
        http = own_client(base_url, proxy=None, ssl_context=None, max_connections=None)
    except PerkamoConfigurationError as error:
        return [*surroundings, *of_answers(answers, str(error))], findings.all()
    async with http:
        caller = Caller(http, base_url, key)
        await findings.attempt(partial(_look, caller, answers))
        if len(answers) == _LOOKS and answers[-1].ok:
            caller.offset = clock_offset(answers[-1]) or 0.0
            plan = await read_only(caller, findings, answers[-1])
            if customer is not None:
                await _write(Writer.of(caller, findings, customer, plan))
    problem = next(iter(findings.problems), None)
    return [*surroundings, *of_answers(answers, problem)], findings.all()


async def _look(caller: Caller, answers: list[Answer]) -> None:
    while len(answers) < _LOOKS:
        answers += [await caller.get("/v1/program")]


async def _write(writer: Writer) -> None:
    counted = await writer.ask()
    if counted is not None:
        await writer.findings.attempt(partial(ask_batches, writer, counted))
        await writer.findings.attempt(partial(ask_redeem, writer, counted))
        await writer.findings.attempt(partial(ask_tokens, writer, os.environ.get(BROWSER_KEY_VARIABLE)))


def _document(surroundings: list[Surrounding], findings: list[Finding]) -> dict[str, JSONValue]:
    return {
        "surroundings": [one.json() for one in surroundings],
        "facts": [finding.json() for finding in findings],
        "dialect": {**dialect_of(findings)},
    }


def _lines(surroundings: list[Surrounding], findings: list[Finding]) -> Iterator[str]:
    marks = {True: "ok", False: "WRONG", None: "-"}
    yield from table(["SURROUNDINGS", "", ""], [[one.name, marks[one.ok], one.text] for one in surroundings])
    for known in ("published", "older", "assumed"):
        yield ""
        rows = [[one.fact.name, _result(one), _expected(one)] for one in findings if one.fact.known == known]
        yield from table([known.upper(), "", ""], rows)
    counts = {
        found: sum(one.found == found for one in findings) for found in ("confirmed", "differs", "could not tell")
    }
    yield ""
    unknown = f"{counts['could not tell']} could not be determined."
    yield f"{counts['confirmed']} confirmed, {counts['differs']} differ, {unknown}"


def _expected(finding: Finding) -> str:
    return finding.fact.behaviour.removeprefix(f"{finding.fact.name}: ")


def _result(finding: Finding) -> str:
    if finding.found == "differs":
        return f"differs: {finding.detail}"
    return finding.found if not finding.detail else f"{finding.found}: {finding.detail}"
