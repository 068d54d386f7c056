"""Trying every fault: a flow runs once undisturbed, then once more for each of its requests and each fault.

Does the flow end right *whatever* fails? Each run is as new, and must end with the same wallets, levels, perks and
events counted as the undisturbed one.
"""

from perkamo.sandbox.trials.every_fault import try_every_fault
from perkamo.sandbox.trials.report import FaultDifference, FaultReport

__all__ = ["FaultDifference", "FaultReport", "try_every_fault"]
