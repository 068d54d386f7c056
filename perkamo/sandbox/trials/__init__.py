"""Tries every fault: a flow runs once without faults, then once more for each of its requests and each fault.

Does the flow end right, *whatever* fails? Each run begins with an empty sandbox, and must end with the same wallets,
levels, perks and counted events as the run without faults.
"""

from perkamo.sandbox.trials.every_fault import try_every_fault
from perkamo.sandbox.trials.report import FaultDifference, FaultReport

__all__ = ["FaultDifference", "FaultReport", "try_every_fault"]
