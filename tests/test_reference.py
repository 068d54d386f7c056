"""The guides' tables and the words of their prose, held against the code: every public name is explained once."""

import ast
import importlib
import inspect
import re
from collections import Counter
from typing import Final

import pytest
from attrs import fields

from perkamo import AsyncPerkamoClient, CustomerStream, Event, Outbox, PostgresOutbox, RetryPolicy, Transport, postgres
from perkamo.batching.pacing import FIRST_WAIT, LONGEST_RETRY_AFTER, LONGEST_WAIT
from perkamo.cli.import_input import MAX_LINE
from perkamo.cli.import_job import GRACE
from perkamo.encoding import encode, parse
from perkamo.encoding.ids import MAX_EVENT_LENGTH, MAX_TRANSACTION_ID_LENGTH, MAX_USER_ID_LENGTH
from perkamo.events import MAX_BATCH_EVENTS, MAX_EVENT_BYTES
from perkamo.integrations import retrying
from perkamo.integrations.settings import Settings
from perkamo.outbox import relay
from perkamo.outbox.directory import LOCK_PATIENCE
from perkamo.outbox.outbox import DEFAULT_MAX_BYTES
from perkamo.outbox.postgres import store
from perkamo.outbox.postgres.outbox import CONCURRENCY
from perkamo.outbox.relay import FINISH_SECONDS
from perkamo.outbox.watching import STATE_SECONDS
from perkamo.outbox.writer import LOOK_EVERY
from perkamo.postgres import LOCK_SECONDS, STATEMENT_SECONDS
from perkamo.request.body import MAX_BODY_BYTES
from perkamo.request.retry import rule_of_status
from perkamo.sandbox import Sandbox
from perkamo.sandbox.ledger import MAX_LOGGED_EVENTS
from perkamo.sandbox.requestlog import MAX_RECORDED_BYTES, MAX_RECORDS
from perkamo.testing.clients import LATE
from perkamo.transport.transport import MAX_CONNECTIONS
from perkamo.webhooks import MAX_WEBHOOK_BYTES, MemoryDeliveryLog, SqliteDeliveryLog
from tests.guides import BLOCKS, GUIDES, README, ROOT

CLIENT: Final = GUIDES["perkamo/README.md"]


def section(text: str, title: str) -> str:
    """The text below a title, up to the next one of its kind."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(table: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]


def public_modules() -> set[str]:
    """The modules that users import from: those with ``__all__``, except inside another one of them."""
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "perkamo").rglob("__init__.py")
        if re.search(r"^__all__ = ", path.read_text("utf-8"), re.MULTILINE)
    }
    return {name for name in found if not any(name.startswith(f"{other}.") for other in found - {"perkamo", name})}


def test_the_api_reference_has_every_public_module() -> None:
    """The README's command names them all; catches a package that is public and never built."""
    [command] = [line for line in README.splitlines() if "-m pdoc" in line]

    assert {word for word in command.split() if word.startswith("perkamo")} == {*public_modules(), "perkamo.testing"}


def public_names() -> set[str]:
    """All that users import, as ``module.name``; of a module that only loads beside a framework, by its source."""
    names = {f"{module}.{name}" for module in public_modules() for name in importlib.import_module(module).__all__}
    for path in (ROOT / "perkamo/integrations").rglob("[!_]*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for listed in re.findall(r"^__all__ = (.*)$", path.read_text("utf-8"), re.MULTILINE):
            names |= {f"{module}.{name}" for name in ast.literal_eval(listed)}
    return names


def explained() -> Counter[str]:
    """Count in how many rows of the guides' reference tables each name stands, as ``module.name``."""
    found: Counter[str] = Counter()
    for text in GUIDES.values():
        tables = re.findall(r"^From `([\w.]+)`:\n\n((?:\|.*\n)+)", section(f"{text}\n", "Reference"), re.MULTILINE)
        found.update(
            f"{module}.{name}"
            for module, table in tables
            for cells in rows(table)
            for name in re.findall(r"`(\w+)`", cells[0])
        )
    return found


def test_every_public_name_is_in_exactly_one_reference_table() -> None:
    """Catches a name that was added and never explained, one that is no more, and one that is explained twice."""
    public, found = public_names(), explained()

    assert {name for name in public if name not in found} == set()
    assert {name for name in found if name not in public} == set()
    assert {name for name, count in found.items() if count > 1} == set()


def test_snippets_and_prose_import_public_names_only() -> None:
    """Catches a guide that teaches a path inside the package, which moves without notice."""
    code = [block.text for block in BLOCKS if block.words[0] == "python"]
    prose = [words for text in GUIDES.values() for words in re.findall(r"`(from perkamo[\w.]* import [\w, ]+)`", text)]
    imported = {
        f"{node.module}.{alias.name}"
        for text in code + prose
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "perkamo"
        for alias in node.names
    }

    assert len(prose) >= 1
    assert imported - public_names() == set()


def test_the_commands_variables_and_errors_of_the_prose_exist() -> None:
    """Options and variables in the text, too; catches one that was renamed under a guide."""
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "perkamo").rglob("*.py"))
    prose = [re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL) for text in GUIDES.values()]
    spans = [span for text in prose for span in re.findall(r"`([^`\n]+)`", text)]
    options = {
        one for span in spans if span.startswith(("perkamo ", "--")) for one in re.findall(r"--[a-z][\w-]+", span)
    }
    settings = {one for span in spans for one in re.findall(r"\bPERKAMO_([A-Z_]+)", span)}
    errors = {one for span in spans for one in re.findall(r"\bPerkamo\w+Error\b", span)}
    calls = {
        (name, call)
        for span in spans
        for name, call in re.findall(r"(?<![\w./])(client|event|outbox|sandbox|stream)\.(\w+)\(", span)
    }
    known = {field.name for field in fields(Settings)}
    kinds = {
        "client": (AsyncPerkamoClient,),
        "event": (Event,),
        "outbox": (Outbox, PostgresOutbox),
        "sandbox": (Sandbox,),
        "stream": (CustomerStream,),
    }

    assert min(len(options), len(settings), len(errors), len(calls)) >= 5
    assert {one for one in options if f'"{one}"' not in code} <= {"--help", "--preload", "--database"}
    assert {one for one in settings if one.lower() not in known and f"PERKAMO_{one}" not in code} == set()
    assert {one for one in errors if f"class {one}(" not in code} == set()
    assert {f"{name}.{call}" for name, call in calls if not any(hasattr(kind, call) for kind in kinds[name])} == set()


DEFAULTS: Final = inspect.signature(AsyncPerkamoClient).parameters
TRANSPORT: Final = inspect.signature(Transport).parameters
MEMORY: Final = inspect.signature(MemoryDeliveryLog).parameters
SQLITE: Final = inspect.signature(SqliteDeliveryLog).parameters
SUBSCRIBE: Final = inspect.signature(AsyncPerkamoClient.subscribe_customer).parameters
STREAM_TOKEN: Final = inspect.signature(AsyncPerkamoClient.create_stream_token).parameters
RELAY: Final = vars(relay)
SECONDS: Final = {0.5: "half a second", 1: "a second", 60: "a minute", 120: "two minutes", 300: "five minutes"}
NUMBERS: Final = {10: "ten"}
STORE: Final = vars(store)
TABLES_SQL: Final = (ROOT / "perkamo/outbox/postgres/migrations/0001.sql").read_text("utf-8")
VACUUM: Final = re.findall(r"autovacuum_vacuum_threshold = (\d+)", TABLES_SQL)
FIGURES: Final = {
    "perkamo/request/README.md": (
        f"`timeout` | `{DEFAULTS['timeout'].default}` seconds",
        str(RetryPolicy()).removeprefix("RetryPolicy(").removesuffix(")"),
        f"`max_connections` | `{MAX_CONNECTIONS}`",
        f"the age of a connection | {TRANSPORT['max_connection_age'].default / 60:g} minutes",
        f"| {MAX_BODY_BYTES >> 20} MiB, also after decompression",
        f"at most {parse.MAX_DEPTH} levels |",
        f"a batch | {MAX_BATCH_EVENTS} events",
        f"{MAX_USER_ID_LENGTH}, {MAX_EVENT_LENGTH} and {MAX_TRANSACTION_ID_LENGTH} UTF-16",
        f"a context, traits | {encode.MAX_DEPTH} levels, {MAX_EVENT_BYTES >> 10} KiB of JSON",
    ),
    "perkamo/outbox/README.md": (
        f"can be tried again after {LOCK_PATIENCE:g} seconds",
        f"is taken over after {2 * RELAY['TIMEOUT']:g} seconds",
        f"within {2000 * LOOK_EVERY:g} ms",
    ),
    "perkamo/outbox/postgres/README.md": (
        f"end after {STATEMENT_SECONDS} seconds, and wait for a lock for {LOCK_SECONDS}.",
        f"answers nothing for {vars(postgres)['_ANSWER_SECONDS']:g} seconds",
        f"is free again after about {2 * RELAY['TIMEOUT']:g} seconds",
        f"on its way within {round(STORE['_POLL_SECONDS'][1], 1)} seconds",
        f"within {SECONDS[STORE['_SWEEP_SECONDS']]}, or {NUMBERS[STORE['_SWEEP_SHARE']]} times what",
        f"requests on their way ({CONCURRENCY})",
        f"vacuum after {int(VACUUM[0]):,} dead rows",
    ),
    "perkamo/stream/README.md": (
        f"`idle_timeout={SUBSCRIBE['idle_timeout'].default}` seconds",
        f"live for about {SECONDS[STREAM_TOKEN['ttl_seconds'].default]}",
    ),
    "perkamo/integrations/opentelemetry/README.md": (
        f"at most once {SECONDS[STATE_SECONDS]}, and every {RELAY['_LOOK_AGAIN']:g} seconds",
    ),
    "perkamo/integrations/celery/README.md": (
        f"at most {SECONDS[LONGEST_RETRY_AFTER]}",
        f"from {SECONDS[FIRST_WAIT]} to {SECONDS[vars(retrying)['_LONGEST_WAIT']]}",
    ),
    "perkamo/testing/README.md": (f"wait {LATE.attempt_timeout:g} s where an answer never comes",),
    "README.md": (f"at most {MAX_BODY_BYTES >> 20} MiB, also after decompression",),
    "perkamo/cli/README.md": (
        f"within {GRACE:g} seconds",
        f"a line of more than {MAX_LINE >> 20} MiB",
    ),
    "perkamo/outbox/recipes/README.md": (
        f"`--grace` ({FINISH_SECONDS:g} s)",
        f"takes {DEFAULT_MAX_BYTES >> 30} GiB of events",
        f"tries again every {SECONDS[RELAY['PAUSE']].removeprefix('a ')}",
        f"waits up to {LONGEST_WAIT:g} s between two tries",
        f"up to {MAX_BATCH_EVENTS} events each",
    ),
    "perkamo/sandbox/README.md": (
        f"the last {MAX_LOGGED_EVENTS:,} events and {MAX_RECORDS:,} requests",
        f"at most {MAX_RECORDED_BYTES // 1_000_000} MB",
    ),
    "perkamo/webhooks/README.md": (
        f"remembers {MEMORY['max_entries'].default:,} ids",
        f"its `lease` ({SQLITE['lease'].default:g} s",
        f"at most {MAX_WEBHOOK_BYTES >> 10} kB",
    ),
}


@pytest.mark.parametrize("guide", FIGURES)
def test_the_figures_of_a_guide_are_those_of_the_code(guide: str) -> None:
    """Limits and defaults; catches one that was changed in one of the two."""
    text = " ".join(GUIDES[guide].split())

    assert [words for words in FIGURES[guide] if words not in text] == []


def test_the_statuses_that_are_retried_are_those_of_the_guide() -> None:
    """Each status by itself, and the range; catches a status that was added or taken out."""
    text = " ".join(GUIDES["perkamo/request/README.md"].split())
    [told] = re.findall(r"timeouts, ([\d, andto]+) are retried", text)
    first, last = map(int, re.findall(r"(\d+) to (\d+)", told)[0])
    single = {int(one) for one in re.findall(r"\d+", told)}
    retried = {status for status in range(100, 600) if rule_of_status(status, has_retry_after=False).call}

    assert retried == {*single, *range(first, last + 1)}


def test_the_fixtures_and_marks_of_the_plugin_are_in_its_guide() -> None:
    """Catches one that was added and never explained."""
    source = (ROOT / "perkamo/testing/__init__.py").read_text("utf-8")
    fixtures = {
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and any("pytest.fixture" in ast.unparse(decorator) for decorator in node.decorator_list)
        and not node.name.startswith("_")
    }
    marks = set(re.findall(r'"markers",\s+"(\w+)\(', source))
    told = {
        name
        for cells in rows(section(GUIDES["perkamo/testing/README.md"], "Reference"))
        for name in re.findall(r"`(\w+)`", cells[0])
    }

    assert marks
    assert told == fixtures | marks


def test_the_tables_have_every_method_and_option() -> None:
    """With all parameters; catches what was added to the client and never told."""
    signatures = {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(AsyncPerkamoClient, inspect.isfunction)
        if not name.startswith("_")
    }
    calls = dict(re.findall(r"^\| `(?:await )?(\w+)\((.*?)\)`", section(CLIENT, "Calls"), flags=re.MULTILINE))
    options = re.findall(r"^\| `(\w+)` \|", section(GUIDES["perkamo/request/README.md"], "Options"), flags=re.MULTILINE)

    assert calls.keys() == signatures.keys() - {"aclose"}  # which shares the row of ``async with``
    for name, row in calls.items():
        told = re.findall(r"(\w+)(?:=[^,]+)?(?:, |$)", row)
        assert told == [parameter for parameter in signatures[name].parameters if parameter != "self"]
    assert options == [*inspect.signature(AsyncPerkamoClient).parameters]


def test_symptoms_are_quoted_from_the_code() -> None:
    """What a reader searches for is what the library says; catches a message that was changed under the guide."""
    symptoms = [cells[0] for cells in rows(section(CLIENT, "What a message means"))]
    quoted = [words for symptom in symptoms for words in symptom.split("`")[1::2] if " " in words]
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "perkamo").rglob("*.py"))

    assert len(quoted) >= 8
    assert not [words for words in quoted if words not in code and "==" not in words]


def test_the_readmes_figures_are_those_of_the_benchmarks() -> None:
    """The same row has the same figure in both; catches one that was measured anew in one place."""
    measured = {cells[1]: cells[2].strip("*") for cells in rows(GUIDES["benchmarks/README.md"])}
    claimed = dict(rows(section(README, "Speed"))[1:])

    assert len(claimed) == 5
    assert claimed.items() <= measured.items()
