"""One call as hooks and the log see it: without ids, keys and values.

Connecting a stream is a call as well: it ends when the stream is open, or when it is given up.

The logger ``perkamo`` gets one line for each attempt, at INFO if another attempt follows and at DEBUG otherwise. At the
end of each call it gets one more, at DEBUG after a success and at INFO after a failure, because the caller gets the
error. The facts of each line are also fields of the log record, with names that begin with ``perkamo_``.
"""

import logging
from collections.abc import Mapping
from itertools import count
from typing import Final

from attrs import asdict, define, field

from perkamo.errors import PerkamoError
from perkamo.hooks import AttemptEnd, AttemptStart, CallEnd, CallOutcome, CallStart, Hooks
from perkamo.redaction import Secrets
from perkamo.request.classify import Failure, Head, Reply, logger
from perkamo.request.endpoints import Call
from perkamo.runtime.clock import Clock

_numbers: Final = count(1)
_FIELDS: Final = ("attempt", "attempts", "outcome", "status", "error", "seconds", "request_id", "wait")
_NOTHING: Final[Mapping[str, str]] = {}


@define
class Observation:
    """Notifies hooks and the log of one call, and of each of its attempts.

    Attributes:
        call: The call.
        hooks: The hooks that are notified, in addition to the log.
        clock: The clock that measures durations.
        server: Host and port of the service.
    """

    call: Call
    hooks: Hooks
    clock: Clock
    server: tuple[str, int]
    _start: CallStart = field(init=False)
    _began: float = field(init=False)
    _attempt_began: float = 0.0
    _attempts: int = 0
    _is_open: bool = False
    _status: int | None = None
    _request_id: str | None = None

    def __attrs_post_init__(self) -> None:
        """Notify hooks that the call begins."""
        size = 0 if self.call.body is None else len(self.call.body)
        self._start = CallStart(next(_numbers), self.call.method, self.call.template, *self.server, size)
        self._began = self.clock.now()
        self.hooks.call_start(self._start)

    def attempt_starts(self) -> Mapping[str, str]:
        """Notify hooks that an attempt begins, and return the headers to send with it."""
        self._attempts += 1
        self._is_open = True
        headers = self.hooks.attempt_start(AttemptStart(self._start, self._attempts)) if self.hooks else _NOTHING
        self._attempt_began = self.clock.now()
        return headers

    def attempt_ends(self, result: "Reply | Head | Failure | BaseException", wait: float | None) -> None:
        """Notify hooks of an attempt's result, and of the wait before the next one; None if none follows."""
        seconds = self.clock.now() - self._attempt_began
        self._is_open = False
        level = logging.DEBUG if wait is None else logging.INFO
        size: int | None = None
        error: BaseException | None = None
        if isinstance(result, Reply | Head):
            self._status, request_id = result.meta.status, result.meta.request_id
            size = len(result.body) if isinstance(result, Reply) else None
        else:
            error = result.error if isinstance(result, Failure) else result
            self._status, request_id = getattr(error, "status", None), getattr(error, "request_id", None)
        if not (self.hooks or logger.isEnabledFor(level)):
            return
        secrets = Secrets(self.call.secrets()) if isinstance(result, BaseException) else result.secrets()
        self._request_id = None if request_id is None else secrets.clean(request_id)
        end = AttemptEnd(
            self._start,
            self._attempts,
            _outcome(error),
            self._status,
            None if error is None else type(error).__name__,
            seconds,
            self._request_id,
            size,
            wait,
        )
        self._log_attempt(level, end, result.clock_offset if isinstance(result, Failure) else None)
        self.hooks.attempt(end)

    def ends(self, error: BaseException | None, retry_quota: int) -> None:
        """Notify hooks of the call's end; an attempt that is still under way ends with it."""
        if self._is_open and error is not None:
            self.attempt_ends(error, None)
        level = logging.DEBUG if error is None else logging.INFO
        if not (self.hooks or logger.isEnabledFor(level)):
            return
        end = CallEnd(
            self._start,
            self._attempts,
            _outcome(error),
            self._status,
            None if error is None else type(error).__name__,
            self.clock.now() - self._began,
            self._request_id,
            retry_quota,
        )
        attempts = "1 attempt" if end.attempts == 1 else f"{end.attempts} attempts"
        text = f"{self.call.label}: the call {_result(end)} after {attempts} in {end.seconds:.3f} s"
        self._log(level, text, end)
        self.hooks.call_end(end)

    def _log_attempt(self, level: int, end: AttemptEnd, clock_offset: float | None) -> None:
        if not logger.isEnabledFor(level):
            return
        request = "" if end.request_id is None else f" (request id {end.request_id})"
        text = f"{self.call.label}: attempt {end.attempt} {_result(end)} in {end.seconds:.3f} s{request}"
        if end.wait is not None and not end.wait and clock_offset is not None:
            text += f"; signing again with the clock corrected by {clock_offset:.0f} s"
        elif end.wait is not None:
            text += f"; attempt {end.attempt + 1} follows in {end.wait:.3f} s"
        self._log(level, text, end)

    def _log(self, level: int, text: str, end: AttemptEnd | CallEnd) -> None:
        if logger.isEnabledFor(level):
            known = asdict(end, recurse=False)
            extra = {f"perkamo_{name}": known[name] for name in _FIELDS if name in known}
            extra |= {"perkamo_method": self.call.method, "perkamo_endpoint": self.call.template}
            logger.log(level, "%s", text, extra=extra)


def _outcome(error: BaseException | None) -> CallOutcome:
    if error is None:
        return "succeeded"
    if isinstance(error, PerkamoError):
        return error.outcome or "failed"
    return "failed" if isinstance(error, Exception) else "cancelled"


def _result(end: AttemptEnd | CallEnd) -> str:
    """Return how it ended, such as ``succeeded: 200`` or ``ended with PerkamoRateLimitError 429``."""
    status = "" if end.status is None else f" {end.status}"
    if end.error is None:
        return f"succeeded:{status}"
    if end.outcome == "cancelled":
        return "was cancelled"
    return f"ended with {end.error}{status}"
