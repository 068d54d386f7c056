"""The questions of ``perkamo check`` to a service, and the evaluation of the answers."""
