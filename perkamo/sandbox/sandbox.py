"""The sandbox as tests and programs use it: a local Perkamo service with state, clock, faults and request log."""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from attrs import evolve

from perkamo.runtime.clock import Clock as Stopwatch
from perkamo.sandbox import assertions
from perkamo.sandbox.blueprint import read_program
from perkamo.sandbox.clock import Clock
from perkamo.sandbox.control import Control
from perkamo.sandbox.dialect import make_space
from perkamo.sandbox.faults import Delay, Fault, Faults, Interceptor, Lost, Reset, Stall, Status, Truncate, name_of
from perkamo.sandbox.fidelity import FIDELITY, Fidelity
from perkamo.sandbox.inspection import inspection_answers
from perkamo.sandbox.ledger import Listener, SandboxCustomer, SandboxEvent
from perkamo.sandbox.messages import (
    WITHOUT_BODY,
    Handler,
    Instruction,
    Json,
    Request,
    Response,
    StreamingResponse,
    json_response,
    with_headers,
)
from perkamo.sandbox.page import page_answers
from perkamo.sandbox.process import ProcessLock, SandboxError
from perkamo.sandbox.requestlog import RequestLog, RequestRecord, make_record
from perkamo.sandbox.routes import ROUTES, find
from perkamo.sandbox.server import Server
from perkamo.sandbox.shop import SHOP_PROGRAM
from perkamo.sandbox.shown import Shown
from perkamo.sandbox.stream import CustomerStreams
from perkamo.sandbox.tokens import IdMaker, Purpose, Token
from perkamo.sandbox.webhooks import Webhooks

if TYPE_CHECKING:
    import httpx


class Sandbox:
    """A local Perkamo service. Nothing leaves this machine. It is not the real service: see ``fidelity``.

        with Sandbox() as sandbox:
            client = PerkamoClient(sandbox.api_key, base_url=sandbox.base_url)

    It is thread-safe. As a context manager, sync or async, it starts and stops. Leaving the block without an exception
    fails if an armed fault never fired.

    Args:
        program: The program, as a mapping or as JSON; None for that of a shop.
        host: The address to listen on. Any other than loopback opens the API to the network.
        expose: Whether other machines may use the page and the control plane, too. They can then read everything, reset
            the sandbox and arm faults. Web sites are still refused.
        port: The port; 0 for a free one.
        seed: Keys, ids and tokens follow from it, so that the same script always gets the same ones.
        now: The time, with a zone, at which ``clock`` is stopped at first; None lets it run.
        dialect: Answers that differ from our assumptions, by the names and alternatives of ``fidelity``, such as
            ``{"customer.perks": "texts"}``. They cannot be changed later.

    Raises:
        ProgramError: The program is invalid; ``.path`` is the place.
        DialectError: The fact or its alternative does not exist.
        ValueError: ``now`` has no zone.
    """

    def __init__(
        self,
        program: Mapping[str, object] | str | bytes | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        expose: bool = False,
        seed: int = 0,
        now: datetime | None = None,
        dialect: Mapping[str, str] | None = None,
    ) -> None:
        self._lock = ProcessLock()
        self._host, self._port = host, port
        self._now = now
        self._server: Server | None = None
        self._log = RequestLog()
        self._stopwatch = Stopwatch()
        ids = IdMaker(seed)
        self.api_key: str = ids.fixed("sk_test_")
        """The server key that this sandbox accepts."""
        self.browser_key: str = ids.fixed("pk_test_")
        """The public browser key that this sandbox accepts."""
        self.clock: Clock = Clock(self._lock, now)
        """The sandbox's time."""
        self.faults: Faults = Faults(self._lock)
        """The faults of this sandbox."""
        self._space = make_space(
            read_program(SHOP_PROGRAM if program is None else program),
            dialect,
            api_key=self.api_key,
            browser_key=self.browser_key,
            ids=ids,
            time=self.clock.time,
        )
        self.streams: CustomerStreams = CustomerStreams(self._space, self._lock, self.clock.time)
        """The customer streams: their heartbeat and reconnection time, and how many are open."""
        self._space.ledger.listen(self.streams.changed)
        self._streams_as_made = (self.streams.heartbeat, self.streams.retry_ms)
        self.webhooks: Webhooks = Webhooks(self._space.ledger, IdMaker(seed))
        """The webhooks: where they are delivered, and how unreliably."""
        self._handlers: list[Handler] = []
        self._request_listeners: list[Callable[[RequestRecord], object]] = []
        self._interceptor: Interceptor | None = None
        shown = Shown(self._space.ledger, self._space.feed, self._log, self.faults, self.clock, self._lock)
        self._control = Control(
            {
                **inspection_answers(self._space.ledger, self._log, self.faults, self.clock, self._lock),
                "POST /_sandbox/reset": self._reset,
                **page_answers(shown, self.api_key, self.answer),
            },
            exposed=expose,
        )

    def start(self) -> Self:
        """Start serving; return when the port answers.

        Raises:
            SandboxError: The port is in use, the address does not belong to this machine, or the sandbox already runs.
        """
        if self._server is not None:
            raise SandboxError("the sandbox is already running")
        server = Server(self.answer, self._space.error, host=self._host, port=self._port)
        self._lock.served = True
        server.start()
        self._server = server
        return self

    def stop(self) -> None:
        """Close the port and all connections. The state stays readable. If it is not running, do nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None:
            self.faults.assert_all_fired()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    @property
    def base_url(self) -> str:
        """The URL to give to a client as ``base_url``.

        Raises:
            SandboxError: The sandbox is not running.
        """
        if self._server is None:
            raise SandboxError("the sandbox is not running: use it as a context manager, or call start()")
        return self._server.base_url

    @property
    def requests(self) -> tuple[RequestRecord, ...]:
        """The requests so far, oldest first, keys masked: the last 10,000, and at most 64 MB of heads and bodies."""
        with self._lock:
            return self._log.records()

    def customer(self, user_id: str) -> SandboxCustomer:
        """Return a customer at this moment; an unknown customer is an empty one."""
        with self._lock:
            return self._space.ledger.customer(user_id)

    def customers(self) -> tuple[SandboxCustomer, ...]:
        """Return all customers at this moment, in the order of their first request."""
        with self._lock:
            ledger = self._space.ledger
            return tuple(ledger.customer(user_id) for user_id in ledger.user_ids())

    def events(self, user_id: str | None = None) -> tuple[SandboxEvent, ...]:
        """Return the applied events, oldest first, of one customer or of all: the last 100,000."""
        with self._lock:
            return self._space.ledger.events(user_id)

    def assert_emitted(
        self,
        event: str,
        *,
        user_id: str | None = None,
        transaction_id: str | None = None,
        context: Mapping[str, object] | None = None,
        times: int | None = 1,
    ) -> None:
        """Fail unless such an event was applied. The message shows how the nearest events differ.

        Args:
            event: The event key.
            user_id: The customer; None for any.
            transaction_id: The transaction id; None for any.
            context: Fields that the context must have, in nested objects too. Lists are compared item by item. None
                for any context.
            times: How often exactly, 0 for never; an event that is applied twice earns twice. None for once or more.

        Raises:
            AssertionError: There are fewer or more such events.
            ValueError: times is below 0.
        """
        __tracebackhide__ = True
        with self._lock:
            events, requests = self._space.ledger.events(), self._log.records()
        wanted = assertions.Expected(event, user_id, transaction_id, context)
        problem = assertions.problem(wanted, times, events, requests)
        if problem is not None:
            raise AssertionError(problem)

    def reset(self) -> None:
        """Forget customers, events, transactions, tokens, requests and faults, and set the clock as at first."""
        with self._lock:
            self._space.reset()
            self._log.reset()
            self.faults.clear()
            self.clock.reset()
            if self._now is not None:
                self.clock.freeze(self._now)

    def renew(self, program: Mapping[str, object] | str | bytes | None = None, *, now: datetime | None = None) -> None:
        """Reset it with another program and another time. Address and keys stay the same.

        Args:
            program: As for a new sandbox.
            now: As for a new sandbox.

        Raises:
            ProgramError: The program is invalid; ``.path`` is the place. Nothing has changed.
            ValueError: ``now`` has no zone. Nothing has changed.
        """
        fresh = read_program(SHOP_PROGRAM if program is None else program)
        Clock(self._lock, now)  # refuses a time without a zone
        with self._lock:
            self._space.ledger.program = fresh
            self._now = now
            self._handlers.clear()
            self.intercept(None)
            self.streams.heartbeat, self.streams.retry_ms = self._streams_as_made
            self.reset()

    def fidelity(self) -> tuple[Fidelity, ...]:
        """Return which of the sandbox's behaviour is published, and which is assumed."""
        return FIDELITY

    def transport(self) -> "httpx.AsyncBaseTransport":
        """Return an httpx transport for ``httpx.AsyncClient(transport=…)``, served in this process without a socket.

        It needs no ``start()``, works on asyncio and trio, and knows the same state, clock and faults.
        """
        from perkamo.sandbox.transport import SandboxTransport  # noqa: PLC0415 - httpx is imported only if it is used

        return SandboxTransport(self.answer)

    def check_token(self, text: str, purpose: Purpose) -> Token:
        """Return the browser token with this text, by the sandbox's clock.

        Raises:
            TokenError: The token is unknown, expired, or made for another purpose.
        """
        with self._lock:
            return self._space.tokens.check(text, purpose, self.clock.time())

    def customer_json(self, user_id: str) -> dict[str, Json]:
        """Return a customer as ``GET /v1/customer`` answers."""
        with self._lock:
            return self._space.ledger.customer_json(user_id)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call the listener after each change of a customer and after each reset.

        It is called in the thread that made the change, with the sandbox locked: it must return at once and hand the
        value over, for instance with ``call_soon_threadsafe``.

        Returns:
            A function that ends it.
        """
        with self._lock:
            return self._space.ledger.listen(listener)

    def on_request(self, listener: Callable[[RequestRecord], object]) -> Callable[[], None]:
        """Call the listener with each request of the API after it was answered, keys masked.

        It is called in the thread that answers, with the sandbox locked: it must return at once.

        Returns:
            A function that ends it.
        """
        with self._lock:
            self._request_listeners.append(listener)
        return lambda: self._request_listeners.remove(listener)

    def add_handler(self, handler: Handler) -> None:
        """Let a handler answer requests before the Space does. It may answer with a stream.

        It is called with the sandbox locked.
        """
        with self._lock:
            self._handlers.append(handler)

    def intercept(self, interceptor: Interceptor | None) -> None:
        """Let an interceptor see every request and delivery from now on, and apply faults; None to end that.

        Armed ``faults`` are applied first.
        """
        with self._lock:
            self._interceptor = interceptor
            self.webhooks.intercept(interceptor)

    def answer(self, request: Request) -> Instruction:
        """Answer one request, with the armed faults. The socket and the in-process transport both call it."""
        with self._lock:
            control = self._control.handle(request)
            if control is not None:
                return Instruction(control)
            began = self._stopwatch.now()
            template = find(request.path).template
            route = None if template is None else f"{request.method} {template}"
            fault = self._fault(route, request) if route in ROUTES else None
            instruction = self._strike(request, fault)
            struck = None if fault is None else name_of(fault)
            record = make_record(
                request, route, instruction, fault=struck, time=self.clock.time(), seconds=self._stopwatch.now() - began
            )
            self._log.add(record)
            for listener in tuple(self._request_listeners):
                listener(record)
            return instruction

    def _fault(self, route: str, request: Request) -> Fault | None:
        armed = self.faults.take(route)
        chosen = None if self._interceptor is None else self._interceptor.strike(route, request)
        return armed or chosen

    def _strike(self, request: Request, fault: Fault | None) -> Instruction:
        if isinstance(fault, Status):
            return Instruction(self._status(fault))
        if isinstance(fault, Reset) and fault.before is not None:
            return Instruction(None, end="reset")
        instruction = Instruction(self._handle(request))
        match fault:
            case Delay():
                instruction = evolve(instruction, delay=fault.seconds)
            case Truncate():
                instruction = evolve(instruction, keep=fault.length, end="close")
            case Stall():
                instruction = evolve(instruction, keep=fault.length, end="stall")
            case Reset():
                instruction = Instruction(None, end="reset")
            case Lost():
                instruction = Instruction(None, end="close")
            case None:
                pass
        return instruction

    def _handle(self, request: Request) -> Response | StreamingResponse:
        for handler in (*self._handlers, self.streams.answer):
            answer = handler(request)
            if answer is not None:
                return answer
        return self._space.handle(request)

    def _status(self, fault: Status) -> Response:
        headers = tuple((name.lower(), value) for name, value in fault.headers.items())
        response = self._space.error(fault.code, f"A fault of the sandbox: {fault.code}")
        given = {name for name, _ in headers}
        kept = tuple(pair for pair in response.headers if pair[0] not in given)
        response = evolve(response, headers=(*kept, *headers))
        if fault.code in WITHOUT_BODY:
            response = evolve(response, body=b"")
        elif fault.body is not None:
            response = evolve(response, body=fault.body.encode() if isinstance(fault.body, str) else fault.body)
        return with_headers(response, self._space.common_headers())

    def _reset(self, _: Request) -> Response:
        self.reset()
        return json_response(200, {"reset": True})
