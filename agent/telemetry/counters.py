"""Counters: plain integers in a worker, added up over workers and their incarnations in the supervisor.

A key is the counter's name and its labels' values, in the order that agent.telemetry.metrics gives. It stays a tuple
all the way, over the channel too: a label may say anything, the name of a file with it.
"""

from collections import Counter
from collections.abc import ItemsView, Mapping

from agent.outcome import Outcome

OPENED = "opened"
CLOSED = "closed"
DENIED = "denied"
BYTES = "bytes"
DECIDED = "decided"
SHORT = "short"

Key = tuple[str, ...]
"""Name, and the values of labels."""


class Counters:
    """What one worker has counted since it started."""

    def __init__(self) -> None:
        self._values: Counter[Key] = Counter()

    def opened(self, direction: str, security: str) -> None:
        """A connection is being relayed."""
        self._values[OPENED, direction, security] += 1

    def closed(self, direction: str, outcome: Outcome) -> None:
        """A relayed connection is over."""
        self._values[CLOSED, direction, outcome] += 1

    def denied(self, direction: str, outcome: Outcome) -> None:
        """A connection was refused, or ended because it is no longer permitted."""
        self._values[DENIED, direction, outcome] += 1

    def decided(self, verdict: str, decided_by: str, authorization: str, reason: str) -> None:
        """What policy said of a connection: `allow`, `audit` or `deny`."""
        self._values[DECIDED, verdict, decided_by, authorization, reason] += 1

    def moved(self, direction: str, sent: int, received: int) -> None:
        """Application bytes: sent and received by the pod's own process."""
        self._values[BYTES, direction, "sent"] += sent
        self._values[BYTES, direction, "received"] += received

    def short(self, listener: str) -> None:
        """Accepting has stopped for a moment: descriptors or memory have run out."""
        self._values[SHORT, listener] += 1

    def snapshot(self) -> dict[Key, int]:
        """Everything, for the channel."""
        return dict(self._values)


class CounterTotals:
    """Sums over all workers. What a dead incarnation had counted stays: counters never fall."""

    def __init__(self) -> None:
        self._finished: Counter[Key] = Counter()
        self._current: dict[int, tuple[int, Mapping[Key, int]]] = {}

    def update(self, worker: int, incarnation: int, snapshot: Mapping[Key, int]) -> None:
        """Takes what one incarnation of a worker has counted since it started."""
        former = self._current.get(worker)
        if former is not None and former[0] > incarnation:
            return  # late news of a dead one
        if former is not None and former[0] < incarnation:
            self._finished.update(former[1])
        self._current[worker] = (incarnation, snapshot)

    def items(self) -> ItemsView[Key, int]:
        """The sums."""
        total = Counter(self._finished)
        for _, snapshot in self._current.values():
            total.update(snapshot)
        return total.items()
