"""A local Perkamo service for first steps, demonstrations and tests.

It serves the published HTTP API over a real socket, keeps state, checks keys and signatures, and fails on request.
``Sandbox.fidelity()`` lists which of its behaviour is published and which is assumed.
"""

from perkamo.sandbox.blueprint import ProgramError
from perkamo.sandbox.clock import Clock
from perkamo.sandbox.dialect import DialectError
from perkamo.sandbox.faults import Delay, Fault, Faults, Lost, Reset, Stall, Status, Truncate
from perkamo.sandbox.fidelity import Fidelity
from perkamo.sandbox.ledger import SandboxCustomer, SandboxEvent
from perkamo.sandbox.process import SandboxError
from perkamo.sandbox.requestlog import RequestRecord
from perkamo.sandbox.sandbox import Sandbox
from perkamo.sandbox.stream import CustomerStreams
from perkamo.sandbox.trials import FaultDifference, FaultReport, try_every_fault
from perkamo.sandbox.webhooks import SentWebhook, Webhooks

__all__ = [
    "Clock",
    "CustomerStreams",
    "Delay",
    "DialectError",
    "Fault",
    "FaultDifference",
    "FaultReport",
    "Faults",
    "Fidelity",
    "Lost",
    "ProgramError",
    "RequestRecord",
    "Reset",
    "Sandbox",
    "SandboxCustomer",
    "SandboxError",
    "SandboxEvent",
    "SentWebhook",
    "Stall",
    "Status",
    "Truncate",
    "Webhooks",
    "try_every_fault",
]
