"""The command line: everything that ``python -m perkamo`` can do, one module for each command."""
