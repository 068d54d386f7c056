"""The Python client of the Perkamo loyalty and gamification API.

Importing this package loads neither httpx nor an event loop: each public name is fetched from its room at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from perkamo.client import AsyncPerkamoClient
    from perkamo.credentials import ApiKey
    from perkamo.delivery.batcher import Batcher
    from perkamo.delivery.bulk import Outcome, emit_many
    from perkamo.delivery.errors import (
        PerkamoOutboxConflictError,
        PerkamoOutboxCorruptError,
        PerkamoOutboxError,
        PerkamoOutboxFullError,
        PerkamoOutboxStorageError,
    )
    from perkamo.delivery.outbox import DeadLetter, Outbox, OutboxStats
    from perkamo.delivery.relay import Relay
    from perkamo.delivery.sync_batcher import SyncBatcher
    from perkamo.delivery.sync_bulk import sync_emit_many
    from perkamo.delivery.sync_outbox import SyncOutbox
    from perkamo.errors import (
        PerkamoApiError,
        PerkamoAsyncUsageWarning,
        PerkamoAuthenticationError,
        PerkamoClosedError,
        PerkamoConfigurationError,
        PerkamoConflictError,
        PerkamoConnectionError,
        PerkamoError,
        PerkamoNotFoundError,
        PerkamoPermissionError,
        PerkamoRateLimitError,
        PerkamoRedirectError,
        PerkamoResponseError,
        PerkamoServerError,
        PerkamoStreamError,
        PerkamoTimeoutError,
        PerkamoValidationError,
        RateLimit,
        WriteOutcome,
    )
    from perkamo.events import Context, Event, Traits, assert_safe_event, create_transaction_id
    from perkamo.jsontext import OMIT, JSONInput, JSONValue, canonical_json
    from perkamo.models import (
        ApiResponse,
        BatchIngestResponse,
        Blueprint,
        BrowserToken,
        Customer,
        EventIngestResponse,
        IdentifyResponse,
        Level,
        Program,
        ProgramEvent,
        ResponseMeta,
        UnlockedPerk,
        WalletDelta,
    )
    from perkamo.reconnect import ReconnectPolicy
    from perkamo.retry import RetryPolicy
    from perkamo.stream import CustomerStream, CustomerUpdate
    from perkamo.streamtoken import StreamToken
    from perkamo.sync_client import PerkamoClient
    from perkamo.sync_stream import SyncCustomerStream

__version__ = "0.1.0"

__all__ = [
    "OMIT",
    "ApiKey",
    "ApiResponse",
    "AsyncPerkamoClient",
    "BatchIngestResponse",
    "Batcher",
    "Blueprint",
    "BrowserToken",
    "Context",
    "Customer",
    "CustomerStream",
    "CustomerUpdate",
    "DeadLetter",
    "Event",
    "EventIngestResponse",
    "IdentifyResponse",
    "JSONInput",
    "JSONValue",
    "Level",
    "Outbox",
    "OutboxStats",
    "Outcome",
    "PerkamoApiError",
    "PerkamoAsyncUsageWarning",
    "PerkamoAuthenticationError",
    "PerkamoClient",
    "PerkamoClosedError",
    "PerkamoConfigurationError",
    "PerkamoConflictError",
    "PerkamoConnectionError",
    "PerkamoError",
    "PerkamoNotFoundError",
    "PerkamoOutboxConflictError",
    "PerkamoOutboxCorruptError",
    "PerkamoOutboxError",
    "PerkamoOutboxFullError",
    "PerkamoOutboxStorageError",
    "PerkamoPermissionError",
    "PerkamoRateLimitError",
    "PerkamoRedirectError",
    "PerkamoResponseError",
    "PerkamoServerError",
    "PerkamoStreamError",
    "PerkamoTimeoutError",
    "PerkamoValidationError",
    "Program",
    "ProgramEvent",
    "RateLimit",
    "ReconnectPolicy",
    "Relay",
    "ResponseMeta",
    "RetryPolicy",
    "StreamToken",
    "SyncBatcher",
    "SyncCustomerStream",
    "SyncOutbox",
    "Traits",
    "UnlockedPerk",
    "WalletDelta",
    "WriteOutcome",
    "__version__",
    "assert_safe_event",
    "canonical_json",
    "create_transaction_id",
    "emit_many",
    "sync_emit_many",
]

_ROOMS: Final = {
    "client": ("AsyncPerkamoClient",),
    "credentials": ("ApiKey",),
    "delivery.batcher": ("Batcher",),
    "delivery.bulk": ("Outcome", "emit_many"),
    "delivery.errors": (
        *("PerkamoOutboxConflictError", "PerkamoOutboxCorruptError", "PerkamoOutboxError", "PerkamoOutboxFullError"),
        "PerkamoOutboxStorageError",
    ),
    "delivery.outbox": ("DeadLetter", "Outbox", "OutboxStats"),
    "delivery.relay": ("Relay",),
    "delivery.sync_batcher": ("SyncBatcher",),
    "delivery.sync_bulk": ("sync_emit_many",),
    "delivery.sync_outbox": ("SyncOutbox",),
    "events": ("Context", "Event", "Traits", "assert_safe_event", "create_transaction_id"),
    "jsontext": ("OMIT", "JSONInput", "JSONValue", "canonical_json"),
    "models": (
        *("ApiResponse", "BatchIngestResponse", "Blueprint", "BrowserToken", "Customer", "EventIngestResponse"),
        *("IdentifyResponse", "Level", "Program", "ProgramEvent", "ResponseMeta", "UnlockedPerk", "WalletDelta"),
    ),
    "reconnect": ("ReconnectPolicy",),
    "retry": ("RetryPolicy",),
    "stream": ("CustomerStream", "CustomerUpdate"),
    "streamtoken": ("StreamToken",),
    "sync_client": ("PerkamoClient",),
    "sync_stream": ("SyncCustomerStream",),
}
_ROOM_OF: Final = {name: room for room, names in _ROOMS.items() for name in names}


if not TYPE_CHECKING:  # a type checker that saw this would take every misspelt name for an object

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"perkamo.{_ROOM_OF.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
