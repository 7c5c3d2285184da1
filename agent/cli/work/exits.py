"""How a verb ends that could not do what was asked."""

import sys
from typing import NoReturn

EXIT_FAILED = 1
EXIT_USAGE = 2


def fail(message: str, status: int) -> NoReturn:
    """Says what is wrong and ends."""
    sys.stderr.write(f"quietwire: {message}\n")
    sys.exit(status)
