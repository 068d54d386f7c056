"""sandbox.recording: what came is kept without keys, without ids where asked, and plays into another sandbox."""

import io
import json
from urllib.parse import quote

import pytest

from perkamo import PerkamoClient, PerkamoError, RetryPolicy
from perkamo.encoding.encode import JSONInput
from perkamo.sandbox import Sandbox, Status
from perkamo.sandbox.messages import Request
from perkamo.sandbox.recording import Recorder, RecordingError, play, read_recording

USER = "jan.novák@example.com"


def recorded(*, pseudonyms: bool = False) -> tuple[Sandbox, str]:
    """A sandbox after a small day of a shop, and its recording."""
    file = io.StringIO()
    with Sandbox() as sandbox:
        end = sandbox.on_request(Recorder(file, pseudonyms=pseudonyms).write)
        sandbox.faults.next("POST /v1/events", Status(503))
        with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=RetryPolicy(base_delay=0)) as client:
            client.identify(USER, {"plan": "pro", "also": USER})
            context: dict[str, JSONInput] = {"amount": 12_900, "order_id": "order_1"}
            client.emit(USER, "purchase.completed", context, transaction_id="order_1")
            client.emit(USER, "purchase.completed", context, transaction_id="order_1")
            client.batch([{"user_id": "other", "event": "review.created", "transaction_id": "review_1"}])
            client.customer(USER)
            client.create_browser_token(sandbox.browser_key, USER)
            end()
            client.program()
    return sandbox, file.getvalue()


def test_a_recording_plays_into_the_same_state() -> None:
    """Expect the same customers and events, the retry counted once, and no line after the end."""
    sandbox, text = recorded()
    again = Sandbox()

    statuses = [play(again, one) for one in read_recording(text.splitlines())]

    assert statuses == [200] * 7  # with the attempt that a fault had refused
    assert again.customers() == sandbox.customers()
    assert [event.transaction_id for event in again.events()] == [event.transaction_id for event in sandbox.events()]
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["method"], line["status"], line["fault"]) for line in lines][1] == ("POST", 503, "Status(503)")


@pytest.mark.parametrize("pseudonyms", [False, True])
def test_no_key_and_no_token_is_in_a_recording(pseudonyms: bool) -> None:
    """Expect server key and browser key masked, in bodies and paths, and no head: catches a file with a key."""
    sandbox, text = recorded(pseudonyms=pseudonyms)

    for secret in (sandbox.api_key, sandbox.browser_key, "sandbox_token_", "signature", "v1="):
        assert secret not in text


def test_ids_become_pseudonyms_wherever_they_stand() -> None:
    """Expect none of them in bodies, traits, contexts and paths, encoded or not, and the same wallets at the end."""
    sandbox, text = recorded(pseudonyms=True)
    again = Sandbox()

    for one in read_recording(text.splitlines()):
        play(again, one)

    for secret in (USER, "novák", quote(USER, safe=""), "order_1", "review_1", json.dumps(USER)):
        assert secret not in text
    assert [customer.wallets for customer in again.customers()] == [one.wallets for one in sandbox.customers()]
    assert len(again.events()) == len(sandbox.events()) == 2
    assert text.count(again.events()[0].transaction_id) >= 3  # as often as the order's id came
    assert recorded(pseudonyms=True)[1].count(again.events()[0].user_id) == 0  # others in another recording


def test_what_can_not_be_read_is_kept_as_it_is_or_not_at_all() -> None:
    """Expect bytes that are not text to survive, and a body in which an id may hide to be left out."""
    plain, without_ids = io.StringIO(), io.StringIO()
    sandbox = Sandbox()
    sandbox.on_request(Recorder(plain).write)
    sandbox.on_request(Recorder(without_ids, pseudonyms=True).write)

    sandbox.answer(Request("POST", "/v1/events", (), b"\xff{"))

    assert next(read_recording(plain.getvalue().splitlines())).body == b"\xff{"
    assert next(read_recording(without_ids.getvalue().splitlines())).body == b""


def test_a_file_of_events_plays_too() -> None:
    """Expect the lines that import takes to be applied, and empty lines to be nothing."""
    line = json.dumps({"user_id": "a", "event": "user.registered", "transaction_id": "t", "context": {}})
    sandbox = Sandbox()

    statuses = [play(sandbox, one) for one in read_recording([line, "", line])]

    assert (statuses, len(sandbox.events())) == ([200, 200], 1)


def test_a_file_of_events_needs_no_transaction_ids() -> None:
    """Expect one made from the line, so that the same line counts once, and text that is not valid to be refused."""
    line, sandbox = '{"user_id": "a", "event": "user.registered"}', Sandbox()

    lines = [line, f"  {line}\n", '{"user_id": "\\ud800", "event": "user.registered"}']
    statuses = [play(sandbox, one) for one in read_recording(lines)]

    assert (statuses, len(sandbox.events())) == ([200, 200, 400], 1)


def test_a_stream_is_left_out() -> None:
    """Expect no answer: catches a stream that nobody reads and nobody closes."""
    line = json.dumps({"time": 1, "method": "GET", "path": "/v1/client/customer/a/stream"})

    assert play(Sandbox(), next(read_recording([line]))) is None


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"a": 1}', '{"time": "x", "method": "GET", "path": "/"}', '{"time": 1, "method": 5}']
)
def test_a_wrong_line_is_named_without_its_values(line: str) -> None:
    """Expect its number."""
    with pytest.raises(RecordingError, match=r"^line 2 is n") as error:
        list(read_recording(["", line]))

    assert "nonsense" not in str(error.value)


def test_a_listener_of_requests_is_called_until_it_ends(sandbox: Sandbox) -> None:
    """Expect each answered request with its status: catches a listener that hears only what succeeded."""
    heard: list[int | None] = []
    end = sandbox.on_request(lambda record: heard.append(record.status))
    with PerkamoClient(sandbox.api_key, base_url=sandbox.base_url, retry=RetryPolicy.none()) as client:
        client.program()
        sandbox.faults.next("GET /v1/program", Status(404))
        with pytest.raises(PerkamoError):
            client.program()
        end()
        client.program()

    assert heard == [200, 404]
