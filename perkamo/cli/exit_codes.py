"""The exit codes of the commands."""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2
REFUSED: Final = 3
INTERRUPTED: Final = 130
TERMINATED: Final = 143
"""128 plus the number of the signal, as in shells."""

OF_A_CALL: Final = f"""\
{DONE}    done
{FAILED}    failed: no key, no connection, no permission, or a failure of the service
{WRONG_USAGE}    wrong usage; nothing was sent
{REFUSED}    refused: the input can't be sent, or the service does not take it; trying again does not help
{INTERRUPTED}  Ctrl-C
{TERMINATED}  SIGTERM"""
"""For the help of a command that makes one call."""
