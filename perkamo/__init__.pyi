# GENERATED from __init__.py by ``python -m perkamo.sync.codegen``: change that file, never this one.
from typing import Final

from perkamo.batching.batcher import Batcher
from perkamo.batching.bulk import Outcome, emit_many
from perkamo.batching.sync_batcher import SyncBatcher
from perkamo.batching.sync_bulk import sync_emit_many
from perkamo.client import AsyncPerkamoClient
from perkamo.encoding.encode import OMIT, JSONInput, JSONValue, canonical_json
from perkamo.encoding.ids import create_transaction_id
from perkamo.errors import (
    PerkamoApiError,
    PerkamoAsyncUsageWarning,
    PerkamoAuthenticationError,
    PerkamoClosedError,
    PerkamoConfigurationError,
    PerkamoConflictError,
    PerkamoConnectionError,
    PerkamoError,
    PerkamoEventError,
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
from perkamo.events import Context, Event, EventDict, Traits, TraitsDict, assert_safe_event
from perkamo.hooks import (
    AttemptEnd,
    AttemptStart,
    CallEnd,
    CallOutcome,
    CallStart,
    Delivery,
    DeliveryStart,
    DeliveryState,
    Hook,
)
from perkamo.models import (
    ApiResponse,
    BatchIngestResponse,
    Blueprint,
    BrowserToken,
    Customer,
    EventFailure,
    EventIngestResponse,
    IdentifyResponse,
    Level,
    Program,
    ProgramEvent,
    ResponseMeta,
    UnlockedPerk,
    WalletDelta,
)
from perkamo.outbox.errors import (
    PerkamoOutboxConflictError,
    PerkamoOutboxCorruptError,
    PerkamoOutboxError,
    PerkamoOutboxFullError,
    PerkamoOutboxStorageError,
)
from perkamo.outbox.outbox import Outbox
from perkamo.outbox.postgres.outbox import PostgresOutbox
from perkamo.outbox.postgres.schema import outbox_schema
from perkamo.outbox.postgres.sync_outbox import SyncPostgresOutbox
from perkamo.outbox.relay import Relay
from perkamo.outbox.store import DeadLetter, OutboxStats, SpaceStats, WaitingEvent
from perkamo.outbox.sync_outbox import SyncOutbox
from perkamo.request.credentials import ApiKey
from perkamo.request.retry import RetryPolicy
from perkamo.signing import sign
from perkamo.stream.reconnect import ReconnectPolicy
from perkamo.stream.sse import EventStreamDecoder, ServerSentEvent
from perkamo.stream.stream import CustomerStream, CustomerUpdate
from perkamo.stream.sync_stream import SyncCustomerStream
from perkamo.stream.token import StreamToken
from perkamo.sync_client import PerkamoClient
from perkamo.transport.transport import Transport

__version__: Final[str]
__all__ = [
    "OMIT",
    "ApiKey",
    "ApiResponse",
    "AsyncPerkamoClient",
    "AttemptEnd",
    "AttemptStart",
    "BatchIngestResponse",
    "Batcher",
    "Blueprint",
    "BrowserToken",
    "CallEnd",
    "CallOutcome",
    "CallStart",
    "Context",
    "Customer",
    "CustomerStream",
    "CustomerUpdate",
    "DeadLetter",
    "Delivery",
    "DeliveryStart",
    "DeliveryState",
    "Event",
    "EventDict",
    "EventFailure",
    "EventIngestResponse",
    "EventStreamDecoder",
    "Hook",
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
    "PerkamoEventError",
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
    "PostgresOutbox",
    "Program",
    "ProgramEvent",
    "RateLimit",
    "ReconnectPolicy",
    "Relay",
    "ResponseMeta",
    "RetryPolicy",
    "ServerSentEvent",
    "SpaceStats",
    "StreamToken",
    "SyncBatcher",
    "SyncCustomerStream",
    "SyncOutbox",
    "SyncPostgresOutbox",
    "Traits",
    "TraitsDict",
    "Transport",
    "UnlockedPerk",
    "WaitingEvent",
    "WalletDelta",
    "WriteOutcome",
    "__version__",
    "assert_safe_event",
    "canonical_json",
    "create_transaction_id",
    "emit_many",
    "outbox_schema",
    "sign",
    "sync_emit_many",
]
