# pyright: reportUnsupportedDunderAll=false
# Type checkers take the public names from the stub.
"""The Python client of the Perkamo loyalty and gamification API.

Importing this package loads neither httpx nor an event loop: each public name is fetched from its module at first use.
Type checkers read ``__init__.pyi``, which ``python -m perkamo.sync.codegen`` writes from the table here.
"""

from importlib import import_module
from typing import Final

__version__ = "0.2.0"

_PUBLIC_NAMES: Final = {
    "batching.batcher": ("Batcher",),
    "batching.bulk": ("Outcome", "emit_many"),
    "batching.sync_batcher": ("SyncBatcher",),
    "batching.sync_bulk": ("sync_emit_many",),
    "client": ("AsyncPerkamoClient",),
    "encoding.encode": ("OMIT", "JSONInput", "JSONValue", "canonical_json"),
    "encoding.ids": ("create_transaction_id",),
    "errors": (
        *("PerkamoApiError", "PerkamoAsyncUsageWarning", "PerkamoAuthenticationError", "PerkamoClosedError"),
        *("PerkamoConfigurationError", "PerkamoConflictError", "PerkamoConnectionError", "PerkamoError"),
        *("PerkamoEventError", "PerkamoNotFoundError", "PerkamoPermissionError", "PerkamoRateLimitError"),
        *("PerkamoRedirectError", "PerkamoResponseError", "PerkamoServerError", "PerkamoStreamError"),
        *("PerkamoTimeoutError", "PerkamoValidationError", "RateLimit", "WriteOutcome"),
    ),
    "events": ("Context", "Event", "EventDict", "Traits", "TraitsDict", "assert_safe_event"),
    "hooks": (
        *("AttemptEnd", "AttemptStart", "CallEnd", "CallOutcome", "CallStart", "Delivery", "DeliveryStart"),
        *("DeliveryState", "Hook"),
    ),
    "models": (
        *("ApiResponse", "BatchIngestResponse", "Blueprint", "BrowserToken", "Customer", "EventFailure"),
        *(
            "EventIngestResponse",
            "IdentifyResponse",
            "Level",
            "Program",
            "ProgramEvent",
            "ResponseMeta",
            "UnlockedPerk",
        ),
        "WalletDelta",
    ),
    "outbox.errors": (
        *("PerkamoOutboxConflictError", "PerkamoOutboxCorruptError", "PerkamoOutboxError", "PerkamoOutboxFullError"),
        "PerkamoOutboxStorageError",
    ),
    "outbox.outbox": ("Outbox",),
    "outbox.postgres.outbox": ("PostgresOutbox",),
    "outbox.postgres.schema": ("outbox_schema",),
    "outbox.postgres.sync_outbox": ("SyncPostgresOutbox",),
    "outbox.relay": ("Relay",),
    "outbox.store": ("DeadLetter", "OutboxStats", "SpaceStats", "WaitingEvent"),
    "outbox.sync_outbox": ("SyncOutbox",),
    "request.credentials": ("ApiKey",),
    "request.retry": ("RetryPolicy",),
    "signing": ("sign",),
    "stream.reconnect": ("ReconnectPolicy",),
    "stream.sse": ("EventStreamDecoder", "ServerSentEvent"),
    "stream.stream": ("CustomerStream", "CustomerUpdate"),
    "stream.sync_stream": ("SyncCustomerStream",),
    "stream.token": ("StreamToken",),
    "sync_client": ("PerkamoClient",),
    "transport.transport": ("Transport",),
}
"""Each module and the names that it gives to users: the one list of what is public."""

_MODULE_OF: Final = {name: module for module, names in _PUBLIC_NAMES.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604 - the names are text


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"perkamo.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
