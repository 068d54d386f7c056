"""The operator's commands, one call of the API each: ``python -m perkamo emit …`` and its like."""
