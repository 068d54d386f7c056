"""What ``opentelemetry-instrument`` finds, so that a program such as ``perkamo outbox relay`` needs no line of code."""

from collections.abc import Collection

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from perkamo.integrations.opentelemetry.hook import instrument, uninstrument


class PerkamoInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # mypy is kept out of that module
    """Calls ``instrument`` and ``uninstrument``."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return what else must be installed: nothing."""
        return ()

    def _instrument(self, **options: object) -> None:
        instrument(propagate=options.get("propagate") is True)

    def _uninstrument(self, **options: object) -> None:  # noqa: ARG002 - none is known
        uninstrument()
