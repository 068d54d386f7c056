"""OpenTelemetry: spans and metrics of calls, attempts and deliveries; extra ``otel``.

from perkamo.integrations.opentelemetry import instrument

instrument()
"""

from perkamo.integrations.opentelemetry.hook import OpenTelemetryHook, instrument, uninstrument

__all__ = ["OpenTelemetryHook", "instrument", "uninstrument"]
