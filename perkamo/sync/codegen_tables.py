"""The tables of the code generator: which async classes have twins, and in which names, words and bodies those differ.

What is not named here is the same in both.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

CLASSES: Final[Mapping[str, str]] = {
    "AsyncPerkamoClient": "PerkamoClient",
    "CustomerStream": "SyncCustomerStream",
    "Batcher": "SyncBatcher",
    "Outbox": "SyncOutbox",
    "PostgresOutbox": "SyncPostgresOutbox",
}
"""Each async class and its twin."""

METHODS: Final[Mapping[str, str]] = {
    "aclose": "close",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
}
"""Methods whose names differ; all others keep theirs."""

OMITTED: Final = frozenset({"__anext__", "aput", "aput_many"})
"""Methods without a twin: iterating is ``__iter__``'s alone, which closes what is broken off; others are async twins of
sync ones themselves."""

COPIED: Final = frozenset({"run"})
"""Methods that call the caller's functions, so that their bodies run in the caller's thread."""

BODIES: Final[Mapping[str, str]] = {
    "__aenter__": "return self",
    "__aexit__": "self.close()",
    "__aiter__": """\
try:
    while (one := self.receive()) is not None:
        yield one
finally:
    self.close()""",
    "__repr__": """\
if not hasattr(self, "_async"):
    return f"<{type(self).__name__} not built>"
return repr(self._async).replace(type(self._async).__name__, type(self).__name__, 1)""",
}
"""Methods whose twins have bodies of their own."""

ENTERED: Final[Mapping[str, str]] = {
    "__aenter__": """\
self._entered = wrap_async_context_manager(self._async)
self._entered.__enter__()
return self""",
    "__aexit__": "self._entered.__exit__(kind, error, traceback)",
}
"""The same for classes without ``aclose``: what they open in one task must be closed in that task."""

CONSTRUCTED: Final = """\
self._async = {call}
self._owner: object = None  # keeps what it came from, which closes when it is collected"""

FINALIZED: Final = """\
if hasattr(self, "_async"):  # not when construction failed
    try:
        {complain}
    finally:
        self._finalize_soon(self._async.aclose)"""

FINALIZER: Final = "_finalize_soon = staticmethod(finalize_soon)  # at the interpreter's end, a module loses its names"

OVER: Final = """\
@classmethod
def _over(cls, twin: {name}, owner: object) -> Self:
    made = object.__new__(cls)
    made._async = twin
    made._owner = owner
    return made
"""
"""How an object is made that belongs to another one."""

MADE_BY_OTHERS: Final = frozenset({"CustomerStream"})
"""Classes whose objects come from another object's method."""

SECRETS: Final[Mapping[str, str]] = {
    "api_key": "wrap_secret(api_key, Key)",
    "stream_token": "wrap_secret(stream_token, TokenSource)",
    "proxy": "hide_proxy(proxy)",
    "dsn_or_pool": "hide_dsn(dsn_or_pool)",
}
"""Secrets among the arguments, which are in no frame of a twin either, and what hides them."""

WORDS: Final[Sequence[tuple[str, str]]] = (
    (r"await settle\((.*)\)", r"\1"),
    (r"Awaitable\[None\] \| None", "None"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"'await stream\.aclose\(\)'", "'stream.close()'"),
    (r"\basync for\b", "for"),
    (r"\b([Oo])ne task\b", r"\1ne thread"),
    (r"\banother task\b", "another thread"),
    (r"'async with'", "'with'"),
    (r"'await client\.aclose\(\)'", "'client.close()'"),
    (r"\basync with\b", "with"),
    (r"\bawait ", ""),
    (r"\baclose\b", "close"),
    (r"The async client", "The sync client"),
    (r", from asyncio or trio\.", ", from synchronous code."),
    (r"serves any number of tasks", "serves any number of threads"),
    (r", also before the event loop runs\.", ", also before a fork."),
)
"""How docstrings and messages are worded for synchronous code, besides the names of classes."""


@frozen
class Source:
    """An async module and the module of its twins, as paths in the package without suffix.

    Attributes:
        module: The async module.
        twin: The module of its twins.
        base: The module of the class that those in the async module inherit from; a twin inherits from none, and has
            the methods of both.
    """

    module: str
    twin: str
    base: str = ""


SOURCES: Final[Sequence[Source]] = (
    Source("client", "sync_client"),
    Source("stream/stream", "stream/sync_stream"),
    Source("batching/batcher", "batching/sync_batcher"),
    Source("outbox/outbox", "outbox/sync_outbox", base="outbox/operations"),
    Source("outbox/postgres/outbox", "outbox/postgres/sync_outbox", base="outbox/operations"),
)
"""Every module that has twins. To add one, add a line."""
