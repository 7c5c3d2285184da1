"""`python -m init batch`: many namespaces in one short-lived process, for the agent's supervisor.

Reads one JSON request per line on stdin, with the numbers of descriptors that it inherited; writes one JSON
result per line on stdout, in order.
"""

import json
import sys
import time
from dataclasses import asdict
from typing import Any

from init.engine import REPAIR, Request, repair, run
from init.model import OptionError, Options


def _options(given: dict[str, Any]) -> Options:
    """Options from JSON, which has lists where we have tuples."""
    return Options(**{key: _frozen(value) for key, value in given.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def main() -> int:
    """Reads to the end of stdin, does everything, writes the results."""
    requests = []
    for line in sys.stdin:
        given = json.loads(line)
        try:
            parsed = _options(given["options"])
        except OptionError as error:
            sys.stderr.write(f"quietwire init batch: {error}\n")
            return 2
        requests.append(
            Request(given["op"], given["netns_fd"], parsed, given["backend"], recall=True, processes=given["processes"])
        )
    work = repair if {request.op for request in requests} == {REPAIR} else run
    for result in work(requests, time.clock_gettime(time.CLOCK_BOOTTIME)):
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return 0
