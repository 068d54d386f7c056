"""``perkamo catalog --python``: the module that it writes, as type checkers, ruff and the sandbox see it."""

import ast
import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from perkamo import AsyncPerkamoClient, PerkamoClient, PerkamoValidationError, ProgramEvent
from perkamo.cli.fields import context_fields, context_paths
from perkamo.cli.typed_events import write_module
from perkamo.encoding.encode import JSONValue
from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.shop import SHOP_PROGRAM
from tests.cli.conftest import Perkamo


def rule(event: str, *formulas: str, label: str | None = None) -> ProgramEvent:
    """An earning rule that reads these formulas, or one of a fixed amount."""
    rewards: list[JSONValue] = [{"wallet": "points", "formula": formula} for formula in formulas]
    return ProgramEvent(event, label, raw={"event": event, "label": label, "rewards": rewards or 5})


def load(source: str, folder: Path) -> ModuleType:
    """Import a module from its source."""
    file = folder / "my_events.py"
    file.write_text(source, encoding="utf-8")
    spec = spec_from_file_location("my_events", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a module of this Python in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def shop_rules() -> list[ProgramEvent]:
    """The sandbox's own rules."""
    rules = SHOP_PROGRAM["earningRules"]
    assert isinstance(rules, list)
    return [ProgramEvent(str(one["event"]), str(one["label"]), raw=one) for one in rules if isinstance(one, dict)]


HOSTILE = [
    *(
        "a",
        "a.b",
        "a_b",
        "a-b",
        "A.B",
        "a.b.2",
        "a_b_2",
        "ab",
        "a.b2",
        "ab2",
        "class",
        "import.def",
        "9lives",
        "...",
        "_",
    ),
    *(
        "__private",
        "objednávka.dokončena",
        "購入.完了",
        "e\u0301",
        "quote'",
        'quote"',
        "both\"'",
        'two""\'',
        "back\\slash",
    ),
    *(
        '""" + __import__("os").abort() + """',
        "tab\there",
        "line\nbreak",
        "\u202ereversed",
        "event_key",
        "emit",
        "Event",
    ),
    *("x" * 60, "x" * 70, "x" * 75, "x" * 76, "x" * 77, "y" * 82, "y" * 83, "y" * 84, "y" * 128, "none", "typed_dict"),
    *("購" * 34, "購" * 38, "購" * 41, "購" * 60, "e\u0301" * 70),
]
"""Event keys that are no identifiers, collide as such, need quoting, or are as long as a line."""

FIELDS = [
    "amount",
    "item.quantity",
    "item.price",
    "product-price",
    "class.size",
    "items.0.price",
    "__x",
    "item",
    "a.b.c",
]


def random_rules(random: Random) -> list[ProgramEvent]:
    """Some of the worst rules."""
    keys = random.sample(HOSTILE, random.randrange(1, 8))
    return [
        rule(key, *(f"{{{{{field}}}}} * 2" for field in random.sample(FIELDS, random.randrange(4))), label=key)
        for key in keys
        for _ in range(random.randrange(1, 3))
    ]


def test_the_command_writes_the_module_as_utf_8(sandbox: Sandbox, perkamo: Perkamo) -> None:
    """The same as from the rules themselves, whatever the terminal's encoding."""
    raw: dict[str, JSONValue] = {"event": "objedn\u00e1vka", "label": "\u017elu\u0165ou\u010dk\u00fd"}
    answer = json.dumps({"blueprint": {"earningRules": [raw]}})
    sandbox.faults.next("GET /v1/program", Status(200, {"content-type": "application/json"}, answer))

    done = perkamo("catalog", "--python", PYTHONUTF8="0", PYTHONIOENCODING="ascii")

    expected = write_module([ProgramEvent("objedn\u00e1vka", "\u017elu\u0165ou\u010dk\u00fd", raw=raw)])
    assert (done.stdout, done.stderr, done.returncode) == (expected, "", 0)


def test_the_same_catalogue_gives_the_same_text() -> None:
    """The order of the rules, which a service may change at will, does not show."""
    rules = [rule(key, "{{b}} + {{a}}", label=f"about {key}") for key in HOSTILE]
    shuffled = Random(1).sample(rules, len(rules))

    assert write_module(shuffled) == write_module(rules)


RIGHT = """\
from perkamo import AsyncPerkamoClient, PerkamoClient
from my_events import PURCHASE_COMPLETED, CartItemAddedItem, EventKey, emit, sync_emit


class Item(CartItemAddedItem):
    sku: str


async def right(client: AsyncPerkamoClient, sync: PerkamoClient) -> None:
    await emit(client, "c", "purchase.completed", {"amount": 1})
    await emit(client, "c", PURCHASE_COMPLETED, {"amount": 1.5}, extra={"order_id": "1"}, transaction_id="t")
    await emit(client, "c", "cart.item_added", {"item": Item(quantity=2, sku="x")})
    sync_emit(sync, "c", "user.registered")
    sync_emit(sync, "c", "review.created", {"stars": 5})
    result = sync_emit(sync, "c", "cart.item_added", {"item": {"quantity": 2}}, occurred_at="2026-06-01T10:00:00Z")
    print(result.accepted)


key: EventKey = "user.registered"
"""

WRONG = """\
from perkamo import AsyncPerkamoClient, PerkamoClient
from my_events import EventKey, emit, sync_emit


async def wrong(client: AsyncPerkamoClient, sync: PerkamoClient) -> None:
    await emit(client, "c", "purchase.complete", {"amount": 1})
    await emit(client, "c", "purchase.completed")
    await emit(client, "c", "purchase.completed", {"amount": "1"})
    await emit(client, "c", "purchase.completed", {"amonut": 1})
    sync_emit(sync, "c", "user.registred")
    sync_emit(sync, "c", "cart.item_added", {"item": {"count": 2}})
    sync_emit(client, "c", "user.registered")


key: EventKey = "user.registred"
"""


@pytest.mark.stress
def test_a_wrong_event_or_field_is_a_type_error_and_a_right_one_is_not(tmp_path: Path) -> None:
    """Expect mypy --strict to pass the module and the right uses, and to report each line of the wrong ones."""
    (tmp_path / "my_events.py").write_text(write_module(shop_rules()), encoding="utf-8")
    (tmp_path / "right.py").write_text(RIGHT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")

    done = check(["mypy", "--strict", "--config-file=", "my_events.py", "right.py", "wrong.py"], tmp_path)

    reported = {line.rsplit(": error: ")[0] for line in done.stdout.splitlines() if ": error: " in line}
    assert reported == {f"wrong.py:{number}" for number in (6, 7, 8, 9, 10, 11, 12, 15)}, done.stdout


@pytest.mark.release
def test_any_module_is_typed_formatted_and_tidy(tmp_path: Path) -> None:
    """Whatever the events and fields are called: ruff changes nothing, at two line lengths, and mypy finds nothing."""
    random = Random(20261124)
    for number in range(24):
        source = write_module(random_rules(random))
        (tmp_path / f"events_{number}.py").write_text(source, encoding="utf-8")
    for name, rules in (
        ("shop", shop_rules()),
        ("one", [rule("@overload(TypedDict)", label="x: JSONInput")]),
        ("one_with_facts", [rule("a", "{{b}}")]),
    ):
        (tmp_path / f"{name}.py").write_text(write_module(rules), encoding="utf-8")

    formatted = check(["ruff", "format", "--isolated", "--diff", "."], tmp_path)
    tidy = check(
        ["ruff", "check", "--isolated", "--select", "F,I,N,UP,PYI,D419", "--ignore", "UP013,UP040", "."], tmp_path
    )
    wide = check(["ruff", "format", "--isolated", "--diff", "--line-length", "120", "shop.py"], tmp_path)
    typed = check(["mypy", "--strict", "--config-file=", "."], tmp_path)

    assert formatted.returncode == 0, formatted.stdout[:2000]
    assert wide.returncode == 0, wide.stdout[:2000]
    assert tidy.returncode == 0, tidy.stdout[:2000]
    assert typed.returncode == 0, typed.stdout[:2000]


def test_every_event_key_survives_as_it_is(tmp_path: Path) -> None:
    """Each has a constant of its own with exactly its text; nothing in a key is run."""
    module = load(write_module([rule(key, label=key) for key in HOSTILE]), tmp_path)

    constants = [getattr(module, name) for name in vars(module) if name.isupper()]
    assert sorted(constants) == sorted(HOSTILE)
    assert all(name.isidentifier() for name in vars(module))


@pytest.mark.anyio
async def test_the_written_function_emits(sandbox: Sandbox, client: AsyncPerkamoClient, tmp_path: Path) -> None:
    """Facts and further facts go as one context, under the transaction id that was given."""
    module = load(write_module(shop_rules()), tmp_path)

    async with client:
        bought = await module.emit(
            client, "c1", module.PURCHASE_COMPLETED, {"amount": 500}, extra={"order_id": "1"}, transaction_id="t1"
        )

    (event,) = sandbox.events("c1")
    assert (bought.wallet_state, event.context) == ({"points": 5}, {"amount": 500, "order_id": "1"})
    assert event.transaction_id == "t1"


def test_the_written_sync_function_emits_too(sandbox: Sandbox, tmp_path: Path) -> None:
    """Without facts or transaction id, an empty context goes and an id is made."""
    module = load(write_module(shop_rules()), tmp_path)

    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as sync:
        reviewed = module.sync_emit(sync, "c1", "review.created", occurred_at="2026-06-01T10:00:00Z")

    (event,) = sandbox.events("c1")
    assert (reviewed.accepted, event.context) == (True, {})
    assert (event.transaction_id[:3], event.occurred_at) == ("tx_", "2026-06-01T10:00:00.000Z")


@pytest.mark.parametrize("formulas", [(), ("{{amount}}",)])
def test_a_program_of_one_event_works_too(sandbox: Sandbox, tmp_path: Path, formulas: tuple[str, ...]) -> None:
    """One way to call emit is no overload: type checkers refuse a single one."""
    source = write_module([rule("review.created", *formulas)])
    module = load(source, tmp_path)

    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as sync:
        module.sync_emit(sync, "c1", "review.created", {"amount": 1})

    assert "overload" not in source
    assert sandbox.events("c1")[0].context == {"amount": 1}


def test_a_bad_value_is_refused_as_by_the_client(sandbox: Sandbox, tmp_path: Path) -> None:
    """The written functions are no way round the client's own checks."""
    module = load(write_module(shop_rules()), tmp_path)

    with (
        PerkamoClient(sandbox.api_key, base_url=sandbox.base_url) as sync,
        pytest.raises(PerkamoValidationError, match="level is reserved"),
    ):
        module.sync_emit(sync, "c1", "purchase.completed", {"amount": 1}, extra={"level": 3})
    assert sandbox.requests == ()


@pytest.mark.parametrize(
    ("formulas", "fields"),
    [
        ((), {}),
        (("{{amount}} / 100",), {"amount": "number"}),
        (("({{ a }} + {{b}}) * -1.5",), {"a": "number", "b": "number"}),
        (("{{item.price}} * {{item.count}}",), {"item": {"price": "number", "count": "number"}}),
        (("{{item}} + {{item.price}}",), {"item": "unknown"}),
        (("{{item.price}}", "{{item}}"), {"item": "unknown"}),
        (("{{items.0.price}}",), {"items": "unknown"}),
        (("{{items.0.price}}", "{{items.total}}"), {"items": "unknown"}),
        (("{{amount}}", "{{amount}} * 2"), {"amount": "number"}),
        (("floor({{amount}})",), {"amount": "unknown"}),
        (("{{currency}} == 'CZK'", "{{currency}}"), {"currency": "unknown"}),
        (("{{level}} + {{Wallets.points}} + {{amount}}",), {"amount": "number"}),
        (("{{}} {{ }} {{a..b}} {{.a}} {{x y}} {{{a}}}",), {"a": "unknown"}),
    ],
)
def test_fields_are_what_the_formulas_read(formulas: tuple[str, ...], fields: dict[str, object]) -> None:
    """Numbers where a formula only calculates, unknown where it can't be known, none that the service computes."""
    assert context_fields([rule("a", *formulas)]) == fields


@pytest.mark.parametrize("field", ["__x", "class", "c-d", "amount"])
def test_every_field_keeps_its_name(tmp_path: Path, field: str) -> None:
    """Also one that Python would change inside a class, or that can't be a name at all."""
    module = load(write_module([rule("a", f"{{{{{field}}}}}")]), tmp_path)

    assert list(module.AContext.__annotations__) == [field]


def test_label_and_event_are_no_formulas() -> None:
    """A label may speak of placeholders without reading one."""
    assert context_paths(rule("a.{{b}}", label="earns {{c}}")) == ()


def test_nothing_in_a_label_becomes_code(tmp_path: Path) -> None:
    """Labels are comments of one line each, even those that look like directives or end lines."""
    labels = [
        "x\nimport os",
        "type: ignore",
        "fmt: off",
        "mypy: ignore-errors",
        "\u2028 y",
        "\u202e\x1b[2J",
        "",
        "long " * 40,
    ]
    source = write_module([rule("a", label=label) for label in labels])

    tree = ast.parse(source)
    comments = [line for line in source.splitlines() if line.startswith("#")]
    assert len([node for node in tree.body if isinstance(node, ast.Import)]) == 0
    assert len(comments) == len(labels) - 1
    assert all(line.startswith("# Rule: ") and len(line) <= 88 and line.isprintable() for line in comments)
