"""Programs of a shop that is watched: two that put, and the command that relays, each with spans in a file."""

from typing import Final

EXPORTING: Final = """
import json, sys, time
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from perkamo.integrations.opentelemetry import instrument

spans, outbox, *given = sys.argv[1:]
provider = TracerProvider()
lines = open(spans, "w")
provider.add_span_processor(
    SimpleSpanProcessor(ConsoleSpanExporter(out=lines, formatter=lambda span: span.to_json(indent=None) + "\\n"))
)
instrument(tracer_provider=provider)
"""

PUTTING: Final = (
    EXPORTING
    + """
from perkamo import Event, SyncOutbox

name, user = given
tracer = provider.get_tracer("shop")
number = 0
with SyncOutbox(outbox) as box:
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.time()
        for _ in range(int(line)):
            number += 1
            with tracer.start_as_current_span("order"):
                box.put(Event(user, "purchase.completed", f"{name}-{number}", {"amount": 100, "email": user}))
        print(json.dumps([began, time.time()]), flush=True)
"""
)

RELAYING: Final = (
    EXPORTING
    + """
from perkamo.cli.main import main

sys.exit(main(["outbox", "relay", outbox, "--listen", "127.0.0.1:0", "--fail-if-older", "1h"]))
"""
)
