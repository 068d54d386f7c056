"""Formulas: what they calculate, and that hostile ones do no harm."""

import math
import time
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perkamo.sandbox.formula import FormulaError, FormulaValueError, parse_formula
from perkamo.sandbox.messages import Json

CONTEXT: dict[str, Json] = {
    "product_price": 12.5,
    "amount": 12900,
    "item": {"quantity": 3, "tags": ["a", 7]},
    "text": "12",
    "yes": True,
    "nothing": None,
    "huge": 10**400,
}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{product_price}} * 10", 125.0),
        ("{{ product_price }}*10", 125.0),
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("10 - 4 - 3", 3.0),
        ("100 / 10 / 2", 5.0),
        ("2 * 3 + 4 * 5", 26.0),
        ("-{{amount}} / 100", -129.0),
        ("--5", 5.0),
        ("-(2 + 3)", -5.0),
        ("2 * -3", -6.0),
        ("+4", 4.0),
        ("0.1 + 0.2", 0.1 + 0.2),
        ("{{item.quantity}} * 0.5", 1.5),
        ("{{item.tags.1}}", 7.0),
        ("((((5))))", 5.0),
        ("{{amount}}", 12900.0),
        ("  7  ", 7.0),
    ],
)
def test_a_formula_calculates_with_the_usual_precedence(text: str, result: float) -> None:
    """Expect what a pocket calculator with precedence gives."""
    assert parse_formula(text).evaluate(CONTEXT) == result


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "1 +",
        "* 2",
        "1 2",
        "(1",
        "1)",
        "()",
        "1 ** 2",
        "1 // 2",
        "7 % 2",
        "amount * 2",
        "{amount}",
        "{{amount}",
        "{{}}",
        "{{a..b}}",
        "{{.a}}",
        "{{a b}}",
        "{{a[0]}}",
        "{{__import__('os')}}",
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "1 if 1 else 2",
        "1e5",
        "1_000",
        "0x10",
        "1.",
        ".5",
        "1.2.3",
        "\uff11 + 1",
        "\u0663",
        "1\x00",
        "1;2",
        "'a'",
        "{{a}}{{b}}",
        "9" * 16,
        "1" * 501,
        "(" * 33 + "1" + ")" * 33,
        "-" * 40 + "1",
        "{{" + ".".join("a" * 17) + "}}",
    ],
)
def test_what_is_no_formula_is_refused_when_it_is_read(text: str) -> None:
    """Expect FormulaError, never another exception and never a result."""
    with pytest.raises(FormulaError):
        parse_formula(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{missing}}", "context.missing is missing"),
        ("{{item.missing}}", "context.item.missing is missing"),
        ("{{amount.deeper}}", "context.amount.deeper is missing"),
        ("{{item.tags.9}}", "context.item.tags.9 is missing"),
        ("{{item.tags.-1}}", "context.item.tags.-1 is missing"),
        ("{{item}}", "not a number"),
        ("{{text}}", "not a number"),
        ("{{yes}}", "not a number"),
        ("{{nothing}}", "not a number"),
        ("{{huge}}", "not a finite number"),
        ("1 / 0", "divides by zero"),
        ("1 / ({{amount}} - {{amount}})", "divides by zero"),
        (" * ".join(["999999999999999"] * 25), "not a finite number"),
    ],
)
def test_a_formula_without_a_result_says_why(text: str, reason: str) -> None:
    """Expect FormulaValueError with the path, and no value from the context in it."""
    formula = parse_formula(text)

    with pytest.raises(FormulaValueError, match=reason):
        formula.evaluate(CONTEXT)


def test_a_formula_names_the_paths_it_reads() -> None:
    """Expect each path once, in order: the typed catalogue will be made from them."""
    assert parse_formula("{{b.c}} * {{a}} + {{b.c}}").paths == ("b.c", "a")


_PIECES = ("7", "0.5", "{{a}}", "{{ b.a }}", "{{c}}", "{{", "+", "-", "*", "/", "(", ")", " ", "\n", ".", "a")


def test_no_text_breaks_the_parser() -> None:
    """Expect a formula or FormulaError for any text, a finite number or FormulaValueError from it, each often enough.

    Catches a fuzz that only ever sees what can't be read.
    """
    chance = Random(7)
    results: Counter[str] = Counter()
    for _ in range(4000):
        text = "".join(chance.choices(_PIECES, k=chance.randint(0, 7)))
        try:
            formula = parse_formula(text)
        except FormulaError:
            results["refused"] += 1
            continue
        try:
            assert math.isfinite(formula.evaluate({"a": 2, "b": {"a": 3}}))
        except FormulaValueError:
            results["without a value"] += 1
        else:
            results["evaluated"] += 1

    assert results["refused"] >= 2000
    assert results["evaluated"] >= 200
    assert results["without a value"] >= 50


_numbers = st.integers(0, 999).map(str)
_sums = st.recursive(
    _numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"{parts[0]} {parts[1]} {parts[2]}"),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
    ),
    max_leaves=12,
)


@given(_sums)
def test_results_agree_with_python(text: str) -> None:
    """Expect Python's own arithmetic, on texts that are Python too: catches wrong precedence and associativity."""
    if len(text) <= 500 and text.count("(") + text.count("-") <= 30:
        assert parse_formula(text).evaluate({}) == pytest.approx(float(eval(text)))


@pytest.mark.parametrize(
    ("longest", "one_more", "reason"),
    [
        ("1+" * 249 + "11", "1+" * 250 + "1", "longer than 500 characters"),
        ("(" * 32 + "1" + ")" * 32, "(" * 33 + "1" + ")" * 33, "nested deeper than 32"),
        ("-" * 32 + "1", "-" * 33 + "1", "nested deeper than 32"),
        ("+".join(["(1)"] * 50), "+".join(["(1)"] * 50) + "+" + "(" * 33 + "1" + ")" * 33, "nested deeper than 32"),
        ("{{" + ".".join("a" * 16) + "}}", "{{" + ".".join("a" * 17) + "}}", "more than 16 keys"),
    ],
)
def test_each_size_of_a_formula_has_its_limit(longest: str, one_more: str, reason: str) -> None:
    """Expect the limit itself to be read, and one more to be refused for that reason: catches a limit that is off."""
    assert parse_formula(longest).text == longest
    with pytest.raises(FormulaError, match=reason):
        parse_formula(one_more)


def test_the_longest_formula_is_read_and_evaluated_at_once() -> None:
    """Expect no recursion and no quadratic time in a chain as long as a formula may be."""
    text = "+".join("1" * 250)

    began = time.thread_time()
    result = parse_formula(text).evaluate({})

    assert result == 250
    assert time.thread_time() - began < 1
