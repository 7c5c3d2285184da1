"""Calls without a pause from inside a pod: whatever happens to the API server, they go on, and are counted there."""

import json
from typing import Any

from tests.kubernetes.shop import PORT, Shop

EACH_SECONDS = 0.05
CALL_SECONDS = 5


def loop(namespace: str, host: str = "api") -> list[str]:
    """A container's command: one line for each call of a host of the namespace, HTTP's status and curl's own."""
    url = f"http://{host}.{namespace}.svc.cluster.local:{PORT}/"
    curl = f"curl -s -o /dev/null -w '%{{http_code}}' --max-time {CALL_SECONDS} {url}"
    return ["sh", "-c", f"while :; do echo $({curl}) $? >> /tmp/calls; sleep {EACH_SECONDS}; done"]


class Load:
    """The calls of the shop's `webapp`, which runs `loop`."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._pod: dict[str, Any] = shop.pod("webapp")
        self._before = 0

    def _lines(self) -> list[str]:
        name = self._pod["metadata"]["name"]
        words = ("sh", "-c", "touch /tmp/calls && cat /tmp/calls")  # there is none before the first call has ended
        return self._shop.kubectl("exec", name, "-c", "webapp", "--", *words).splitlines()

    @property
    def goes_well(self) -> bool:
        """Whether any call has been answered so far."""
        return "200 0" in self._lines()

    def begin(self) -> None:
        """From now on calls count."""
        self._before = len(self._lines())

    @property
    def count(self) -> int:
        """How many calls there have been since then."""
        return len(self._lines()) - self._before

    def failures(self, *, at_least: int) -> list[str]:
        """The calls since then that went wrong; that there were enough of them is checked."""
        lines = self._lines()[self._before :]
        assert len(lines) >= at_least, f"only {len(lines)} calls: {json.dumps(lines[-3:])}"
        return [line for line in lines if line != "200 0"]
